"""Golden GPT-2 runs: zds-train must give the losses and norms of transformers and DeepSpeed."""
import json
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

E2E = os.path.join(golden.DATA, "e2e")
MODEL = os.path.join(E2E, "model", "model.safetensors")


def shapes(path):
    """Names and shapes, less what writers may differ in: the prefix, and the tied output layer."""
    return {name.removeprefix("transformer."): entry["shape"]
            for name, entry in golden.read_header(path)[0].items() if name != "lm_head.weight"}


def check_steps(expected, got, tolerance):
    if len(got) != len(expected):
        return f"{len(got)} lines of metrics, expected {len(expected)}"
    for e, g in zip(expected, got):
        if not golden.near(e["loss"], g["loss"], tolerance * max(1, abs(e["loss"]))):
            return f"step {e['step']}: loss {g['loss']}, expected {e['loss']} within {tolerance}"
        if not golden.near(e["lr"], g["learning_rate"], 1e-9):
            return f"step {e['step']}: rate {g['learning_rate']}, expected {e['lr']}"
        norm = e["grad_norm"]  # null where DeepSpeed does not tell
        if norm and math.isfinite(norm) and not golden.near(
                norm, g["grad_norm"], max(10 * tolerance, 0.01) * norm):
            return f"step {e['step']}: gradient norm {g['grad_norm']}, expected {norm}"
    return None


def check(case, programs, folder):
    out = os.path.join(folder, "out")
    if os.environ.get("ZDS_TEST_DEVICE"):  # parameters and states are there, the model is computed here
        os.environ["ZDS_PLUGIN_PATH"] = os.path.join(os.path.dirname(programs), "tests", "island")
        with open(os.path.join(folder, "ds_config.json"), "w") as file:
            json.dump(case["ds_config"] | {"zds": {"device": "test"}}, file)
    command = [os.path.join(programs, "zds-train"),
               "--model_name_or_path", os.path.join(E2E, "model"),
               "--train_file", os.path.join(E2E, "text.bin"),
               "--deepspeed", os.path.join(folder, "ds_config.json"), "--output_dir", out,
               "--max_steps", str(len(case["steps"])), "--data_order", "sequential",
               "--logging_steps", "1"]
    code, _, err = golden.run(golden.ranked(programs, case["world_size"], command), timeout=600)
    if code:
        return f"exit {code}: {err[-500:]}"
    with open(os.path.join(out, "metrics.jsonl")) as file:
        metrics = [json.loads(line) for line in file]
    fault = check_steps(case["steps"], metrics, 2e-3 if {"bf16", "fp16"} & case["ds_config"].keys() else 2e-4)
    if fault:
        return fault
    if not os.path.exists(os.path.join(out, "config.json")):
        return "no config.json in the output"
    saved = os.path.join(out, "model.safetensors")
    if shapes(saved) != shapes(MODEL):
        return "the saved model's tensors differ in name or shape from the given model's"
    with open(saved, "rb") as after, open(MODEL, "rb") as before:
        if after.read() == before.read():
            return "the saved model is the given one"
    return None


sys.exit(golden.run_cases(os.path.join(E2E, "cases.json"), check))
