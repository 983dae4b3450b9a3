"""What bench/run.py measures. Each part yields (name, {side: function that measures it once},
function from {side: medians} to the bars)."""
import json
import os
import shutil
import statistics
import subprocess
import time

import rivals

HERE = os.path.dirname(os.path.abspath(__file__))
RANKS = 2  # of comm and train
TEXT = os.path.join(os.path.dirname(HERE), "tests", "data", "e2e", "text.bin")


def at_most(what, value, bar):
    return {"what": what, "value": value, "bar": bar, "at_most": True}


def at_least(what, value, bar):
    return {"what": what, "value": value, "bar": bar, "at_most": False}


def write_json(folder, name, value):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        json.dump(value, file)
    return path


def ds_config(stage, bf16, micro=1, accumulation=1):
    config = {
        "train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 1.0, "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW",
                      "params": {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1}},
        "steps_per_print": 1000000}
    if bf16:
        config["bf16"] = {"enabled": True}
    return config


# === step ===

PARAMETERS, TENSORS, STEPS = 64 << 20, 16, 7


def step(programs, python, folder):
    for ranks, threads in ((1, 2), (2, 1)):
        for label, stage, bf16 in (("ZeRO-1 fp32", 1, False), ("ZeRO-2 bf16", 2, True)):
            config = write_json(folder, f"step{ranks}{stage}.json", ds_config(stage, bf16))
            zds = [os.path.join(programs, "zds-run"), "-n", str(ranks),
                   os.path.join(programs, "zds-bench"), "step", "--config", config,
                   "--params", "64Mi", "--tensors", str(TENSORS), "--steps", str(STEPS),
                   "--threads", str(threads), "--json"]
            deepspeed = [python, os.path.join(HERE, "rival_step.py"), config, str(PARAMETERS),
                         str(TENSORS), str(STEPS), str(threads)]

            def run_zds(command=zds):
                out = rivals.run_json(command)
                return {key: out[key] for key in ("ready_ms", "step_ms", "bound_ms")}

            def run_deepspeed(command=deepspeed, ranks=ranks, threads=threads):
                out = rivals.run_ranks(command, ranks, threads)[0][-1]
                return {"step_ms": out["step_ms"], "backward_ms": out["backward_ms"]}

            def bars(sides):
                zds, theirs = sides["zds"], sides["DeepSpeed"]
                return [at_most("step / bound", zds["step_ms"] / zds["bound_ms"], 1.3),
                        at_least("DeepSpeed's step / (ready + step)",
                                 theirs["step_ms"] / (zds["ready_ms"] + zds["step_ms"]), 4)]

            yield (f"step, {label}, {ranks} rank{'s'[:ranks > 1]} x {threads} "
                   f"thread{'s'[:threads > 1]}", {"zds": run_zds, "DeepSpeed": run_deepspeed}, bars)


# === comm ===

BYTES, REPEATS = 64 << 20, 15


def mpi_program(folder):
    """comm_mpi.c, compiled on the first call."""
    binary = os.path.join(folder, "comm_mpi")
    if not os.path.exists(binary):
        subprocess.run(["mpicc", "-O3", os.path.join(HERE, "comm_mpi.c"), "-o", binary], check=True)
    return ["mpirun", "--allow-run-as-root", "-n", str(RANKS), binary]


def comm(programs, python, folder):
    mpi = mpi_program(folder)
    for op in ("reduce_scatter", "all_gather"):
        zds = [os.path.join(programs, "zds-run"), "-n", str(RANKS),
               os.path.join(programs, "zds-bench"), "comm", "--op", op, "--bytes", str(BYTES),
               "--dtype", "f32", "--repeats", str(REPEATS), "--json"]
        sizes = [op, str(BYTES), str(REPEATS)]

        def run_zds(command=zds):
            out = rivals.run_json(command)
            return {"ms": out["ms"], "memcpy_ms": out["memcpy_ms"]}

        def bars(sides, op=op):
            ms = sides["zds"]["ms"]
            if op == "all_gather":
                return [at_most("ms / memcpy of the same bytes on both ranks",
                                ms / sides["zds"]["memcpy_ms"], 1)]
            return [at_least(f"{rival}'s ms / ms", sides[rival]["ms"] / ms, 6)
                    for rival in ("Open MPI", "gloo")]

        gloo = [python, os.path.join(HERE, "comm_gloo.py"), *sizes]
        yield (f"comm, {op}, 64 MiB of fp32, 2 ranks",
               {"zds": run_zds,
                "Open MPI": lambda sizes=sizes: rivals.run_json([*mpi, *sizes]),
                "gloo": lambda gloo=gloo: rivals.run_ranks(gloo, RANKS, 1)[0][-1]}, bars)


# === train ===

MODEL = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 256,
         "n_positions": 256, "n_embd": 384, "n_layer": 6, "n_head": 6, "resid_pdrop": 0.0,
         "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
         "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02}
TRAIN_STEPS = 12


def train_zds(programs, config, model, folder):
    """One run of zds-train, watched from outside as the rivals are."""
    out = os.path.join(folder, "out")
    shutil.rmtree(out, ignore_errors=True)
    metrics = os.path.join(out, "metrics.jsonl")
    command = [os.path.join(programs, "zds-run"), "-n", str(RANKS),
               os.path.join(programs, "zds-train"), "--config_name", model, "--train_file", TEXT,
               "--deepspeed", config, "--output_dir", out, "--max_steps", str(TRAIN_STEPS),
               "--data_order", "sequential", "--logging_steps", "1"]
    start = time.time()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    peak = rivals.Peak(lambda: rivals.children(process.pid))
    first = None
    while first is None and process.poll() is None:
        time.sleep(0.005)
        if os.path.exists(metrics) and os.path.getsize(metrics):
            first = time.time() - start
    err = process.communicate(timeout=1200)[1]
    used = peak.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{err[-2000:]}")
    with open(metrics) as file:
        steps = [json.loads(line) for line in file]
    median = statistics.median(step["step_time_ms"] for step in steps[1:])
    tokens = (RANKS * MODEL["n_positions"] * 4 * 2) / median * 1e3
    return {"tokens_per_second": tokens, "step_ms": median, "first_step_s": first,
            "pss_mib": used / 2**20}


def train_rival(python, kind, config, model):
    command = [python, os.path.join(HERE, "rival_train.py"), config, model, TEXT,
               str(TRAIN_STEPS), kind]
    (first, out), start, used = rivals.run_ranks(command, RANKS, 1)
    return {"tokens_per_second": out["tokens_per_second"], "step_ms": out["step_ms"],
            "first_step_s": first["first_step_done"] - start, "pss_mib": used / 2**20}


def train(programs, python, folder):
    model = write_json(folder, "gpt2.json", MODEL)
    for label, stage, bf16, bar in (("ZeRO-0 fp32", 0, False, 1.5), ("ZeRO-2 bf16", 2, True, 2)):
        config = write_json(folder, f"train{stage}.json", ds_config(stage, bf16, 4, 2))
        sides = {"zds": lambda c=config: train_zds(programs, c, model, folder),
                 "DeepSpeed": lambda c=config: train_rival(python, "deepspeed", c, model),
                 "torch.compile": lambda c=config: train_rival(python, "torch", c, model)}

        def bars(sides, bar=bar):
            zds, theirs, compiled = sides["zds"], sides["DeepSpeed"], sides["torch.compile"]
            return [
                at_least("tokens/s / DeepSpeed's",
                         zds["tokens_per_second"] / theirs["tokens_per_second"], bar),
                at_least("tokens/s / torch.compile's",
                         zds["tokens_per_second"] / compiled["tokens_per_second"], 1),
                at_most("first step done, less one step, s",
                        zds["first_step_s"] - zds["step_ms"] / 1e3, 0.3),
                at_most("peak PSS a rank / DeepSpeed's", zds["pss_mib"] / theirs["pss_mib"], 0.25)]

        yield f"train, {label}, 2 ranks x 1 thread", sides, bars


def zero3_config(stage, bf16, offload):
    config = ds_config(stage, bf16, 4, 2)
    if offload:
        config["zero_optimization"].update(offload_optimizer={"device": "cpu"},
                                           offload_param={"device": "cpu"})
    return config


def zero3(programs, python, folder):
    model = write_json(folder, "gpt2.json", MODEL)
    for label, bf16, offload, bar in (("fp32", False, False, 2), ("bf16", True, False, 2),
                                      ("bf16, offload to cpu", True, True, 2.5)):
        name = label.replace(", ", "-").replace(" ", "-")
        whole = write_json(folder, f"whole-{name}.json", zero3_config(0, bf16, False))
        parts = write_json(folder, f"parts-{name}.json", zero3_config(3, bf16, offload))
        sides = {"zds": lambda c=parts: train_zds(programs, c, model, folder),
                 "zds, ZeRO-0": lambda c=whole: train_zds(programs, c, model, folder),
                 "DeepSpeed": lambda c=parts: train_rival(python, "deepspeed", c, model)}

        def bars(sides, bar=bar):
            zds, whole, theirs = sides["zds"], sides["zds, ZeRO-0"], sides["DeepSpeed"]
            return [
                at_least("tokens/s / zds's at ZeRO-0",
                         zds["tokens_per_second"] / whole["tokens_per_second"], 0.95),
                at_least("tokens/s / DeepSpeed's",
                         zds["tokens_per_second"] / theirs["tokens_per_second"], bar)]

        yield f"train, ZeRO-3 {label}, 2 ranks x 1 thread", sides, bars


# === config ===

GOLDEN = os.path.join(os.path.dirname(HERE), "tests", "data", "config", "golden.json")
HIDDEN_SIZE, TRAINING_STEPS = 768, 1000


def richest_case(stage):
    """Of the golden configs of this stage that all readers accept, the longest."""
    with open(GOLDEN) as file:
        cases = json.load(file)["cases"]
    good = [case for case in cases
            if case["expect"]["resolve"]["status"] == case["expect"]["engine"]["status"] == "ok"
            and case["expect"]["engine"]["values"]["zero_optimization"]["stage"] == stage
            and "prescale_gradients" not in case["ds_config"]]  # zds refuses it at stages 2 and 3
    return max(good, key=lambda case: len(json.dumps(case["ds_config"])))


def config(programs, python, folder):
    for stage in (2, 3):
        case = richest_case(stage)
        path = write_json(folder, f"config{stage}.json", case["ds_config"])
        arguments = write_json(folder, f"args{stage}.json", case["args"])
        context = ["--args", arguments, "--world-size", str(case["world_size"]), "--hidden-size",
                   str(HIDDEN_SIZE), "--num-training-steps", str(TRAINING_STEPS)]
        inside = [os.path.join(programs, "zds-bench"), "config", path, *context, "--json"]
        check = [os.path.join(programs, "zds-config"), "check", path, *context]
        theirs = [python, os.path.join(HERE, "rival_config.py"), path, arguments,
                  str(case["world_size"]), str(HIDDEN_SIZE), str(TRAINING_STEPS)]

        def run_zds(inside=inside, check=check):
            times = []
            for _ in range(11):
                start = time.perf_counter()
                done = subprocess.run(check, stdin=subprocess.DEVNULL, capture_output=True)
                times.append((time.perf_counter() - start) * 1e3)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(check)}: {done.stdout}{done.stderr}")
            return {**rivals.run_json(inside), "process_ms": statistics.median(times)}

        def run_deepspeed(command=theirs):
            start = time.perf_counter()
            out = rivals.run_ranks(command, 1, 2)[0][-1]
            return {**out, "process_ms": (time.perf_counter() - start) * 1e3}

        def bars(sides):
            zds = sides["zds"]
            return [at_most("load, resolve and check in a process, ms", zds["check_ms"], 1),
                    at_most("zds-config check, ms", zds["process_ms"], 20)]

        yield (f"config, {case['id']}, stage {stage}", {"zds": run_zds, "DeepSpeed": run_deepspeed},
               bars)


PARTS = {"step": step, "comm": comm, "train": train, "zero3": zero3, "config": config}
