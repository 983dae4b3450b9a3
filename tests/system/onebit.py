"""The 1-bit optimizers against DeepSpeed's own classes (data/onebit/make.py), at every stage they run at, on 1 to 3 ranks;
what must not depend on stage, threads or precision; refusals. usage: onebit.py FOLDER_OF_PROGRAMS"""
import json, math, os, re, shutil, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

BIN = os.path.abspath(sys.argv[1])
REPLAY, ONEBIT = os.path.join(golden.DATA, "replay"), os.path.join(golden.DATA, "onebit")
failures = 0


def check(name, fault):
    global failures
    failures += bool(fault)
    print(("FAIL " if fault else "ok   ") + name + (f": {fault}" if fault else ""), flush=True)


def three_ranks(folder):
    """The gradients of two ranks, and rank 2's: what rank 1 has five micro steps later."""
    source = os.path.join(REPLAY, "grads", "normal")
    for k in range(16):
        for r, (micro, rank) in enumerate(((k, 0), (k, 1), ((k + 5) % 16, 1))):
            os.symlink(os.path.join(source, f"m{micro:03d}.r{rank}.safetensors"),
                       os.path.join(folder, f"m{k:03d}.r{r}.safetensors"))


def replay(folder, grads, case, keys, environment=None):
    """(exit code, tensors, metrics, stderr)"""
    config, out, metrics = (os.path.join(folder, name) for name in ("ds.json", "out.safetensors", "metrics.json"))
    with open(config, "w") as file:
        json.dump({**case["ds_config"], **keys}, file)
    command = [f"{BIN}/zds-replay", "--config", config, "--params", os.path.join(REPLAY, "init.safetensors"), "--grads", grads,
               "--micro-steps", str(case["micro_steps"]), "--out", out, "--metrics", metrics]
    if environment:
        command = ["env", *environment, *command]
    code, _, err = golden.run(golden.ranked(BIN, case["world_size"], command), timeout=60)
    if code:
        return code, None, None, err
    with open(metrics) as file:
        return 0, golden.read_tensors(out), json.load(file), err


def far(expected, got, tolerance):
    for prefix, p99, most in (("param.", tolerance["p99"], tolerance["max"]), ("exp_avg.", 1e-5, math.inf),
                              ("exp_avg_sq.", 1e-5, math.inf)):
        gaps = golden.gaps(expected, got, prefix)
        if golden.percentile99(gaps) > p99 or gaps[-1] > most:
            return f"{prefix}: 99th percentile {golden.percentile99(gaps):.2e}, maximum {gaps[-1]:.2e}"
    return None


def mean_norms(grads, world, steps, accumulation):
    """The mean over ranks of the norm of each rank's own gradient, step by step."""
    norms = []
    for step in range(steps):
        total = 0
        for r in range(world):
            micro = [golden.read_tensors(os.path.join(grads, f"m{step * accumulation + k:03d}.r{r}.safetensors"))
                     for k in range(accumulation)]
            total += math.sqrt(sum((sum(m[n][1][i] for m in micro) / accumulation) ** 2
                                   for n in micro[0] for i in range(len(micro[0][n][1]))))
        norms.append(total / world)
    return norms


def against_the_reference(folder, grads, cases):
    for case in cases:
        expected = golden.read_tensors(os.path.join(ONEBIT, case["id"] + ".safetensors"))
        for stage in (0,) if "zero_one" in case["id"] else (0, 1):
            code, got, metrics, err = replay(folder, grads, case, {"zero_optimization": {"stage": stage}})
            fault = f"exit {code}: {err[-300:]}" if code else far(expected, got, case["tol"])
            check(f"{case['id']} stage {stage}", fault)
            freeze = case["ds_config"]["optimizer"]["params"].get("freeze_step")
            if fault or not freeze:
                continue
            gas = case["ds_config"]["gradient_accumulation_steps"]
            want = mean_norms(grads, case["world_size"], len(metrics), gas)[freeze:]
            norms = [m["grad_norm"] for m in metrics[freeze:]]
            check(f"{case['id']} stage {stage}: the norm is the mean of the ranks' norms",
                  None if all(golden.near(w, n, 1e-5 * w) for w, n in zip(want, norms)) else f"{norms}, expected {want}")


def same_bits(folder, grads, cases):
    """Stages, instruction sets and numbers of threads change nothing; nor does bf16 with its rounded output."""
    for case in cases:
        adam = "adam_" in case["id"]
        for keys in ({}, {"bf16": {"enabled": True}, "gradient_clipping": 0.9}):
            _, first, metrics, err = replay(folder, grads, case, keys)
            variants = [("scalar", keys, ["ZDS_SIMD=scalar"])]
            if adam:  # Lamb's sums over tensors are added in the order of parts
                variants.append(("stage 1", {**keys, "zero_optimization": {"stage": 1}}, None))
            for what, variant, environment in variants:
                code, other, again, err = replay(folder, grads, case, variant, environment)
                fault = f"exit {code}: {err[-300:]}" if code or not first else None
                if not fault and (other != first or again != metrics):
                    fault = "other bits"
                check(f"{case['id']} {'bf16' if keys else 'fp32'} {what}", fault)


def op_sum(folder, grads, cases):
    """Summed gradients of N ranks are N times the mean, before and after the freeze: with the momentum and its root scaled
    alike, Adam's step stays what it was but for eps."""
    case = next(c for c in cases if c["id"] == "onebit_adam_w3")
    _, mean, metrics, _ = replay(folder, grads, case, {})
    code, total, summed, err = replay(folder, grads, case, {"gradient_allreduce_op": "sum"})
    fault = f"exit {code}: {err[-300:]}" if code else None
    if not fault:
        tripled = {n: (s, [3 * x for x in v]) for n, (s, v) in mean.items() if n.startswith("exp_avg.")}
        params = {n: t for n, t in mean.items() if n.startswith("param.")}
        worst = max(golden.gaps(tripled, total, "exp_avg.")[-1], golden.gaps(params, total, "param.")[-1])
        norms = all(golden.near(3 * m["grad_norm"], s["grad_norm"], 1e-4 * s["grad_norm"]) for m, s in zip(metrics, summed))
        fault = None if worst < 1e-4 and norms else f"{worst:.2e} off, norms {'as expected' if norms else 'differ'}"
    check("gradient_allreduce_op sum", fault)


def overflow(folder, cases):
    """One rank's gradient is not finite: all skip that step, and nothing changes."""
    for case in (c for c in cases if c["id"] in ("onebit_adam_w3", "onebit_zero_one_w3")):
        with tempfile.TemporaryDirectory() as broken, tempfile.TemporaryDirectory() as without:
            three_ranks(broken)
            bad = os.path.join(broken, "m010.r1.safetensors")
            tensors = golden.read_tensors(bad)
            name = next(iter(tensors))
            tensors[name][1][0] = math.inf
            os.remove(bad)
            golden.write_tensors(bad, tensors)
            for k in range(15):
                for r in range(3):
                    name = f"m{k + (k >= 10):03d}.r{r}.safetensors"
                    os.symlink(os.path.realpath(os.path.join(broken, name)),
                               os.path.join(without, f"m{k:03d}.r{r}.safetensors"))
            code, got, metrics, err = replay(folder, broken, case, {})
            fault = f"exit {code}: {err[-300:]}" if code else None
            if not fault:
                _, want, _, _ = replay(folder, without, {**case, "micro_steps": 15}, {})
                skipped = [m["skipped"] for m in metrics]
                fault = None if skipped == [k == 10 for k in range(16)] and got == want else f"skipped {skipped}, or other bits"
        check(f"{case['id']}: a rank's overflow skips the step on all", fault)


def on_the_wire(folder, grads, cases):
    """After the freeze a step sends, beside the engine's row of 56 bytes, one bit an element in each of
    two collectives, and a scale a vector: counted by a communication plugin, as what a run of one step more sends more."""
    build = os.path.dirname(BIN)
    with tempfile.TemporaryDirectory() as plugins:
        shutil.copy(os.path.join(build, "tests", "plugins", "count.so"), plugins)
        environment = [f"ZDS_PLUGIN_PATH={plugins}", f"ZDS_TEST_COUNT={build}/lib/zds/plugins/comm_shm.so"]

        def counts(case, steps):
            code, _, _, err = replay(folder, grads, {**case, "micro_steps": steps}, {"zds": {"comm": "count"}}, environment)
            if code:
                raise RuntimeError(f"exit {code}: {err[-300:]}")
            lines = sorted(re.findall(r"count (\w+) (\d+) (\d+)", err))  # every rank's
            if len(lines) != 6 * case["world_size"] or len(set(lines)) != 6:
                raise RuntimeError(f"ranks count differently: {lines}")
            return {n: (int(c), int(b)) for n, c, b in lines}

        sizes = [math.prod(e["shape"]) for e in golden.read_header(os.path.join(REPLAY, "init.safetensors"))[0].values()]
        for case in (c for c in cases if c["world_size"] > 1 and "gas2" not in c["id"]):
            world = case["world_size"]
            unit = world * math.lcm(world, 8)
            vectors = [sum(sizes)] if "lamb" in case["id"] else sizes
            bits = sum(-(-n // unit) * unit for n in vectors) // world  # for each other rank
            message = bits // 8 + 4 * len(vectors)
            row = 56
            try:
                before, after = counts(case, 14), counts(case, 15)
                step = {n: (after[n][0] - before[n][0], after[n][1] - before[n][1]) for n in after}
            except RuntimeError as error:
                check(f"{case['id']}: bytes on the wire", str(error))
                continue
            want = {n: (0, 0) for n in step} | {"all_to_all": (1, message), "all_gather": (2, message + row)}
            if "early" in case["id"]:  # step 15 of this one is local: its ranks meet at multiples of 4
                want = {n: (0, 0) for n in step} | {"all_gather": (1, row)}
            check(f"{case['id']}: {want['all_to_all'][1]} bytes in each direction for {bits} bits",
                  None if step == want else f"{step}; expected {want}")


def refusals(folder, grads, cases):
    by_kind = {c["ds_config"]["optimizer"]["type"]: c for c in cases}
    tries = [("OneBitAdam", {"zero_optimization": {"stage": 2}}, {}, "write 0 or 1"),
             ("OneBitLamb", {"zero_optimization": {"stage": 2}}, {}, "write 0 or 1"),
             ("ZeroOneAdam", {"zero_optimization": {"stage": 2}}, {}, "write 0"),
             ("ZeroOneAdam", {"zero_optimization": {"stage": 1}}, {}, "differ between ranks"),
             ("OneBitAdam", {}, {"freeze_step": 0}, "freeze_step"),
             ("OneBitAdam", {}, {"amsgrad": True}, "amsgrad"),
             ("OneBitAdam", {}, {"max_grad_norm": 1}, "gradient_clipping"),
             ("OneBitLamb", {}, {"factor_min": 5}, "factor_min"),
             ("ZeroOneAdam", {}, {"local_step_clipper": 0}, "local_step_clipper")]
    for kind, keys, params, word in tries:
        optimizer = {"type": kind, "params": {**by_kind[kind]["ds_config"]["optimizer"]["params"], **params}}
        code, _, _, err = replay(folder, grads, {**by_kind[kind], "world_size": 1}, {**keys, "optimizer": optimizer})
        check(f"{kind} {json.dumps({**keys, **params})} is refused", None if code == 1 and word in err else err[-300:])
    plugin = os.path.join(BIN, "..", "tests", "plugins", "known_comm.so")
    two = next(c for c in cases if c["world_size"] == 2 and c["ds_config"]["optimizer"]["type"] == "OneBitAdam")
    code, _, _, err = replay(folder, grads, two, {"zds": {"comm": plugin}})
    check("a backend for memory of its own alone is refused", None if code == 1 and "in memory of its own" in err else err[-300:])


with open(os.path.join(ONEBIT, "cases.json")) as file:
    CASES = json.load(file)["cases"]
with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as gradients:
    three_ranks(gradients)
    against_the_reference(scratch, gradients, CASES)
    same_bits(scratch, gradients, [c for c in CASES if c["world_size"] == 3])
    op_sum(scratch, gradients, CASES)
    overflow(scratch, CASES)
    on_the_wire(scratch, gradients, CASES)
    refusals(scratch, gradients, CASES)
sys.exit(1 if failures else 0)
