"""Golden optimizer runs of references other than DeepSpeed's engine (tests/data/optim, made by
make.py there): the same weights and gradients through zds-replay at every stage, on 1 to 3 ranks that
all have the same gradients, must leave the same parameters and states."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import generated
import golden

OPTIM = os.path.join(golden.DATA, "optim")
RANKS = (1, 2, 3)


def write_inputs(folder):
    golden.write_tensors(f"{folder}/init.safetensors", generated.weights())
    with open(f"{folder}/about.json", "w") as file:
        json.dump(generated.ABOUT, file)
    for step in range(generated.STEPS):
        for rank in range(max(RANKS)):
            path = f"{folder}/m{step:03d}.r{rank}.safetensors"
            if rank == 0:
                golden.write_tensors(path, generated.gradients(step))
            else:
                os.link(f"{folder}/m{step:03d}.r0.safetensors", path)


def replay(case, stage, ranks, programs, inputs, folder):
    """(tensors, None) or (None, what went wrong)"""
    config = dict(case["ds_config"], train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1,
                  gradient_clipping=0.0, zero_optimization={"stage": stage})
    with open(f"{folder}/ds.json", "w") as file:
        json.dump(config, file)
    command = [f"{programs}/zds-replay", "--config", f"{folder}/ds.json", "--params",
               f"{inputs}/init.safetensors", "--grads", inputs, "--about", f"{inputs}/about.json",
               "--micro-steps", str(generated.STEPS), "--out", f"{folder}/out.safetensors"]
    code, _, err = golden.run(golden.ranked(programs, ranks, command), 120)
    if code:
        return None, f"exit {code}: {err[-500:]}"
    return golden.read_tensors(f"{folder}/out.safetensors"), None


def compare(case, expected, got):
    tol = case["tol"]
    distance = golden.gaps(expected, got, "param.")
    if golden.percentile99(distance) > tol["p99"] or distance[-1] > tol["max"]:
        return (f"parameters: 99th percentile {golden.percentile99(distance):.2e}, maximum "
                f"{distance[-1]:.2e} off; allowed {tol}")
    for name, (_, values) in expected.items():
        if name.startswith("param.") or name not in got:
            continue
        if name.startswith("state"):  # codes of 8 bits
            if golden.percentile99(golden.gaps({name: expected[name]}, got, name)) != 0:
                return f"{name}: more than a hundredth of the codes differ"
            continue
        scale = max((abs(x) for x in values), default=0) or 1
        off = golden.gaps({name: expected[name]}, got, name)[-1]
        if off > scale * (2 ** -7 if "bf16" in case["ds_config"] else 2e-5):
            return f"{name}: {off:.2e} off, where values go up to {scale:.2e}"
    return None


def check_all(inputs):
    def check(case, programs, folder):
        path = os.path.join(OPTIM, "expect", case["id"] + ".safetensors")
        expected = golden.read_tensors(path)
        states = [n for n in expected if not n.startswith("param.")]
        for stage in case["stages"]:
            for ranks in RANKS:
                got, fault = replay(case, stage, ranks, programs, inputs, folder)
                fault = fault or compare(case, expected, got)
                if not fault and states and not any(n in got for n in states):
                    fault = f"none of the reference's states ({states[0]}, ..) is there"
                if fault:
                    return f"stage {stage}, {ranks} ranks: {fault}"
        return None
    return check


with tempfile.TemporaryDirectory() as shared:
    write_inputs(shared)
    sys.exit(golden.run_cases(os.path.join(OPTIM, "cases.json"), check_all(shared)))
