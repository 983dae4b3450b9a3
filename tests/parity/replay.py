"""Golden optimizer runs: given gradients through zds-replay must leave DeepSpeed's parameters."""
import json
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

REPLAY = os.path.join(golden.DATA, "replay")


def check_steps(expected, got, own_norm):
    if len(got) != len(expected):
        return f"{len(got)} steps, expected {len(expected)}"
    for number, (e, g) in enumerate(zip(expected, got), 1):
        if g["skipped"] is not e["skipped"] or not golden.near(
                e["loss_scale"], g["loss_scale"], 0):
            return (f"step {number}: skipped {g['skipped']}, scale {g['loss_scale']}; "
                    f"expected {e['skipped']}, {e['loss_scale']}")
        if not golden.near(e["lr"], g["lr"], 1e-9):
            return f"step {number}: rate {g['lr']}, expected {e['lr']}"
        norm = e["grad_norm"]  # null where DeepSpeed does not tell
        if not own_norm and norm and math.isfinite(norm) and not golden.near(
                norm, g["grad_norm"], 5e-3 * norm):
            return f"step {number}: gradient norm {g['grad_norm']}, expected {norm}"
    return None


def check(case, programs, folder):
    out, metrics = os.path.join(folder, "out.safetensors"), os.path.join(folder, "metrics.json")
    command = [os.path.join(programs, "zds-replay"),
               "--config", os.path.join(folder, "ds_config.json"),
               "--params", os.path.join(REPLAY, "init.safetensors"),
               "--grads", os.path.join(REPLAY, "grads", case["grads"]),
               "--micro-steps", str(case["micro_steps"]), "--out", out, "--metrics", metrics]
    code, _, err = golden.run(golden.ranked(programs, case["world_size"], command), timeout=120)
    if code:
        return f"exit {code}: {err[-500:]}"
    expected = golden.read_tensors(os.path.join(REPLAY, "expect", case["id"] + ".safetensors"))
    got = golden.read_tensors(out)
    distance = golden.gaps(expected, got, "param.")
    if golden.percentile99(distance) > case["tol"]["p99"] or distance[-1] > case["tol"]["max"]:
        return (f"parameters: 99th percentile {golden.percentile99(distance):.2e}, "
                f"maximum {distance[-1]:.2e} off; allowed {case['tol']}")
    half = {"bf16", "fp16"} & case["ds_config"].keys()
    for state in ("exp_avg.", "exp_avg_sq."):
        distance = golden.gaps(expected, got, state)
        if distance and golden.percentile99(distance) > (3e-2 if half else 1e-5):
            return f"{state[:-1]}: 99th percentile {golden.percentile99(distance):.2e} off"
    with open(metrics) as file:
        # DeepSpeed takes the norm after Muon has replaced the gradients of matrices by its updates.
        muon = case["ds_config"]["optimizer"]["type"] == "Muon"
        return check_steps(case["steps"], json.load(file), own_norm=muon)


sys.exit(golden.run_cases(os.path.join(REPLAY, "cases.json"), check))
