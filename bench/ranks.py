#!/usr/bin/env python3
"""What a rank does at the boundary besides its own shard, where there are very many ranks.

usage: bench/ranks.py [--build DIR] [--ranks N] [--tensors T] [--bar MS]
One process is rank 0; a test backend answers it as N - 1 copies of itself, at no cost but that of
the bytes. The parameters, 100 elements each, cost hardly anything: what is left is what the engine
does for each parameter and rank. Its own shard is what a rank that is alone does in zds_step with
all parameters, at stages 1 and 2 one N-th of it. Exits with 1 over the bar.
"""
import argparse
import json
import os
import shutil
import subprocess
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("--build", default="build")
parser.add_argument("--ranks", type=int, default=4096)
parser.add_argument("--tensors", type=int, default=5000)
parser.add_argument("--bar", type=float, default=20, help="milliseconds")
args = parser.parse_args()


def step(folder, stage, ranks):
    """Milliseconds in the reports of gradients, and from the last of them on."""
    config = os.path.join(folder, "ds_config.json")
    with open(config, "w") as file:
        json.dump({"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW"},
                   "zero_optimization": {"stage": stage},
                   "zds": {"comm": "copies" if ranks > 1 else "self"}}, file)
    out = subprocess.run(
        [os.path.join(args.build, "bin", "zds-bench"), "step", "--config", config, "--params",
         str(100 * args.tensors), "--tensors", str(args.tensors), "--steps", "22", "--threads", "1",
         "--json"], check=True, stdout=subprocess.PIPE,
        env={**os.environ, "ZDS_PLUGIN_PATH": folder, "RANK": "0", "WORLD_SIZE": str(ranks),
             "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}).stdout
    row = json.loads(out)
    return row["ready_ms"], row["step_ms"]


over = False
with tempfile.TemporaryDirectory() as folder:
    shutil.copy(os.path.join(args.build, "tests", "plugins", "comm_copies.so"), folder)
    for stage in (0, 1, 2):
        shard = step(folder, stage, 1)[1] / (args.ranks if stage else 1)
        ready, boundary = step(folder, stage, args.ranks)
        besides = ready + boundary - shard
        over |= besides > args.bar
        print(f"stage {stage}, rank 0 of {args.ranks}, {args.tensors} parameters: reports "
              f"{ready:.2f} ms, boundary {boundary:.2f} ms, own shard {shard:.2f} ms; besides "
              f"{besides:.2f} ms, at most {args.bar:g}")
raise SystemExit(over)
