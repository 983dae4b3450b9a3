"""ZeRO++ between ranks that share no pages: the bytes that travel, counted by a communication plugin, against the formula, and the
losses of 20 steps of a model against those of exact runs. usage: quantised.py FOLDER_OF_PROGRAMS"""
import json, os, re, shutil, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

BIN = os.path.abspath(sys.argv[1])
BUILD, E2E = os.path.dirname(BIN), os.path.join(golden.DATA, "e2e")
WEIGHTS, GRADS = {"zero_quantized_weights": True}, {"zero_quantized_gradients": True}
SIZES = {"a": 5000, "b": 300, "c": 70001, "d": 2048}  # each a module of zds-replay's, and a span
failures = 0


def check(name, fault):
    global failures
    failures += bool(fault)
    print(("FAIL " if fault else "ok   ") + name + (f": {fault}" if fault else ""), flush=True)


def environment(plugins):
    return ["env", f"ZDS_PLUGIN_PATH={plugins}", f"ZDS_TEST_COUNT={BUILD}/lib/zds/plugins/comm_shm.so"]


def config(folder, keys, comm="count", **more):
    path = os.path.join(folder, "ds.json")
    with open(path, "w") as file:
        json.dump({"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0, "zds": {"comm": comm},
                   "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, **keys}, **more}, file)
    return path


def counts(folder, plugins, world, keys, more, steps):
    """Calls and bytes of each operation, as every rank counts them."""
    command = [*environment(plugins), f"{BIN}/zds-replay", "--config", config(folder, keys, **more), "--params",
               os.path.join(folder, "init.safetensors"), "--grads", os.path.join(folder, "grads"), "--micro-steps", str(steps),
               "--out", os.path.join(folder, "out.safetensors")]
    code, _, err = golden.run(golden.ranked(BIN, world, command), timeout=60)
    if code:
        raise RuntimeError(f"exit {code}: {err[-300:]}")
    lines = sorted(re.findall(r"count (\w+) (\d+) (\d+)", err))
    if len(lines) != 6 * world or len(set(lines)) != 6:
        raise RuntimeError(f"ranks count differently: {lines}")
    return {n: (int(c), int(b)) for n, c, b in lines}


def blocks(elements, block):
    return -(-elements // block)


def wanted(world, keys, element):
    """Of a step: each span gathered once, and reduced once; and the engine's row of 56 bytes."""
    unit = 64 // element
    parts = [blocks(n, unit * world) * unit for n in SIZES.values()]
    gathered = sum(p + 4 * blocks(p, 2048) if keys.get("zero_quantized_weights") else p * element for p in parts)
    want = {n: (0, 0) for n in ("all_reduce", "reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all")}
    want["all_gather"] = (len(parts) + 1, gathered + 56)
    if keys.get("zero_quantized_gradients"):
        want["all_to_all"] = (len(parts), sum(p // 2 + 4 * blocks(p, 128) for p in parts))
    else:
        want["reduce_scatter"] = (len(parts), element * sum(parts))
    return want


def on_the_wire(plugins):
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "grads"))
        tensors = {n: ([size], [((i * 37) % 101 - 50) / 100 for i in range(size)]) for n, size in SIZES.items()}
        golden.write_tensors(os.path.join(folder, "init.safetensors"), tensors)
        for k in range(4):
            for r in range(3):
                golden.write_tensors(os.path.join(folder, "grads", f"m{k:03d}.r{r}.safetensors"), tensors)
        for world in (2, 3):
            for keys in ({}, WEIGHTS, GRADS, WEIGHTS | GRADS):
                for more in ({}, {"bf16": {"enabled": True}}):
                    name = f"{world} ranks, {'bf16' if more else 'fp32'}, {', '.join(keys) or 'exact'}"
                    try:
                        before, after = (counts(folder, plugins, world, keys, more, steps) for steps in (3, 4))
                        step = {n: (after[n][0] - before[n][0], after[n][1] - before[n][1]) for n in after}
                        want = wanted(world, keys, 2 if more else 4)
                        check(f"{name}: {sum(b for _, b in want.values())} bytes a step",
                              None if step == want else f"{step}; expected {want}")
                    except RuntimeError as error:
                        check(name, str(error))


        want = {**wanted(2, {}, 4), "all_gather": (1, 56)}
        before, after = (counts(folder, plugins, 2, {}, {"comm": "count_shared"}, steps) for steps in (3, 4))
        step = {n: (after[n][0] - before[n][0], after[n][1] - before[n][1]) for n in after}
        check("2 ranks that share pages gather nothing", None if step == want else f"{step}; expected {want}")


TWO_NODES = ["sh", "-c", 'export LOCAL_RANK=$((RANK % 2)) LOCAL_WORLD_SIZE=2; exec "$@"', "sh"]  # of four ranks


def losses(folder, plugins, world, keys, more):
    out = os.path.join(folder, "out")
    shutil.rmtree(out, ignore_errors=True)
    optimizer = {"type": "AdamW", "params": {"lr": 0.002, "betas": [0.9, 0.95]}}
    command = [*environment(plugins), f"{BIN}/zds-train", "--model_name_or_path", os.path.join(E2E, "model"), "--train_file",
               os.path.join(E2E, "text.bin"), "--deepspeed", config(folder, keys, optimizer=optimizer, **more), "--output_dir", out,
               "--max_steps", "20", "--data_order", "sequential", "--logging_steps", "1"]
    if world == 4:
        command = [*TWO_NODES, *command]
    code, _, err = golden.run(golden.ranked(BIN, world, command), timeout=120)
    if code:
        raise RuntimeError(f"exit {code}: {err[-300:]}")
    with open(os.path.join(out, "metrics.jsonl")) as file:
        return [json.loads(line)["loss"] for line in file]


def trains(plugins):
    with tempfile.TemporaryDirectory() as folder:
        for world, more in ((2, {}), (3, {}), (2, {"bf16": {"enabled": True}}), (4, {})):
            exact = losses(folder, plugins, world, {}, more)
            for keys in (WEIGHTS, GRADS, WEIGHTS | GRADS | ({"zero_hpz_partition_size": 2} if world == 4 else {})):
                got = losses(folder, plugins, world, keys, more)
                far = max(abs(g / e - 1) for g, e in zip(got, exact))
                fault = None if len(got) == 20 and far < 1e-2 and got != exact else f"{got}, exact {exact}"
                check(f"{world} ranks, {'bf16' if more else 'fp32'}, {', '.join(keys)}: losses of 20 steps, {exact[0]:.3f} to "
                      f"{exact[-1]:.3f}, are at most {100 * far:.2f} % away", fault)


with tempfile.TemporaryDirectory() as scratch:
    shutil.copy(os.path.join(BUILD, "tests", "plugins", "count.so"), scratch)
    on_the_wire(scratch)
    trains(scratch)
sys.exit(1 if failures else 0)
