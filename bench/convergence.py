#!/usr/bin/env python3
"""Trains the demo's GPT-2 on the demo's text with each optimizer, from the same weights, on the same
batches, and writes the final losses into docs/optimizers.md. Fails if AdamW8bit ends more than 1 %
above AdamW. One thread a rank, a few seconds an optimizer; those that compress what ranks send each
other have two ranks, of half a batch each.

usage: convergence.py PROGRAMS TEXT [--only NAME ...] [--rates 0.3 1 3] [--model CONFIG.json] [--keep FILE] [--write]

PROGRAMS: the folder of zds's programs. TEXT: examples/demo/run.sh leaves it as build/demo/text.txt.
--rates: multiples of each optimizer's rate to try, to see whether a better one is near.
--keep: a file of losses; what is in it is not trained again, so that a long run can go on."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
STEPS, WARMUP, LAST = 200, 20, 20
BEGIN, END = "<!-- bench/convergence.py writes from here -->", "<!-- to here -->"

# The rate of each, one of a few at which this model learned steadily, and what else is not a default.
# MuAdam, MuAdamW and MuSGD are Adam, AdamW and SGD here: zds-train names no widths.
OPTIMIZERS = [
    ("AdamW", {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1}),
    ("AdamW8bit", {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1}),
    ("Adam", {"lr": 1e-3, "betas": [0.9, 0.95]}),
    ("NAdam", {"lr": 1e-3, "betas": [0.9, 0.95]}),
    ("RAdam", {"lr": 3e-3, "betas": [0.9, 0.95]}),
    ("Adamax", {"lr": 3e-3}),
    ("Adafactor", {"lr": 1e-2}),
    ("Lamb", {"lr": 0.1}),
    ("Lion", {"lr": 5e-4, "weight_decay": 0.1}),
    ("Muon", {"lr": 2e-2}),
    ("OneBitAdam", {"lr": 1e-3, "freeze_step": 100}),
    ("OneBitLamb", {"lr": 1e-2, "freeze_step": 100}),
    ("ZeroOneAdam", {"lr": 1e-3, "var_freeze_step": 100}),
    ("RMSprop", {"lr": 1e-3}),
    ("Adagrad", {"lr": 1e-2}),
    ("Adadelta", {"lr": 1.0}),
    ("Rprop", {"lr": 1e-3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("MuAdam", {"lr": 1e-3, "betas": [0.9, 0.95]}),
    ("MuAdamW", {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1}),
    ("MuSGD", {"lr": 0.1, "momentum": 0.9}),
    ("ASGD", {"lr": 0.3}),
]
BATCH = 4
RANKS = {"OneBitAdam": 2, "OneBitLamb": 2, "ZeroOneAdam": 2}


def train(options, folder, name, params):
    """The mean loss of the last steps."""
    ranks = RANKS.get(name, 1)
    config = {"train_micro_batch_size_per_gpu": BATCH // ranks, "gradient_clipping": 1.0,
              "optimizer": {"type": name, "params": params},
              "scheduler": {"type": "WarmupCosineLR",
                            "params": {"warmup_num_steps": WARMUP, "total_num_steps": STEPS}}}
    path = os.path.join(folder, "ds.json")
    with open(path, "w") as file:
        json.dump(config, file)
    out = os.path.join(folder, "model")
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [os.path.join(options.programs, "zds-run"), "-n", str(ranks), "--bind", "core",
         os.path.join(options.programs, "zds-train"), "--config_name", options.model,
         "--train_file", options.text, "--deepspeed", path, "--output_dir", out,
         "--overwrite_output_dir", "--max_steps", str(STEPS), "--seed", str(options.seed)],
        env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: zds-train failed:\n{done.stderr}")
    with open(os.path.join(out, "metrics.jsonl")) as file:
        losses = [json.loads(line)["loss"] for line in file]
    if None in losses[-LAST:]:
        return float("nan")
    return sum(losses[-LAST:]) / LAST


def table(rows):
    lines = ["| optimizer | loss | rate | other options |", "| --- | --- | --- | --- |"]
    for name, params, loss in rows:
        others = [f"{k} {v}" for k, v in params.items() if k != "lr"]
        others = ", ".join(others + [f"{RANKS[name]} ranks"] * (name in RANKS))
        lines.append(f"| {name} | {loss:.3f} | {params['lr']:g} | {others} |")
    return "\n".join(lines)


def keep(path, kept):
    if path:
        with open(path, "w") as file:
            json.dump(kept, file, indent=1)


def write(text):
    path = os.path.join(ROOT, "docs", "optimizers.md")
    with open(path) as file:
        page = file.read()
    before, rest = page.split(BEGIN)
    with open(path, "w") as file:
        file.write(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs")
    parser.add_argument("text")
    parser.add_argument("--only", nargs="+", default=[name for name, _ in OPTIMIZERS])
    parser.add_argument("--rates", nargs="+", type=float, default=[1])
    parser.add_argument("--model", default=os.path.join(ROOT, "examples", "demo", "gpt2.json"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows, kept = [], {}
    if options.keep and os.path.exists(options.keep):
        with open(options.keep) as file:
            kept = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        for name, params in OPTIMIZERS:
            if name not in options.only:
                continue
            for rate in options.rates:
                tried = dict(params, lr=params["lr"] * rate)
                key = json.dumps([name, tried, options.seed, options.model])
                if key not in kept:
                    kept[key] = train(options, folder, name, tried)
                    keep(options.keep, kept)
                rows.append((name, tried, kept[key]))
                print(f"{name:12} {tried['lr']:<8g} {rows[-1][2]:.4f}", flush=True)
    rows.sort(key=lambda row: row[2])
    if options.write:
        write(table(rows))
    losses = {name: loss for name, _, loss in rows if options.rates == [1]}
    if "AdamW8bit" in losses and not losses["AdamW8bit"] <= 1.01 * losses["AdamW"]:
        sys.exit("AdamW8bit ends more than 1 % above AdamW")


if __name__ == "__main__":
    main()
