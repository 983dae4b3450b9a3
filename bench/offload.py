#!/usr/bin/env python3
"""A step over masters and states in files beside what fio moves on the same disk.

usage: bench/offload.py [--build DIR] [--folder DIR] [--params P] [--rounds N]
Alternately, N times: zds-bench step with offload_optimizer nvme, which reads and writes 12 bytes of
each parameter in a step; and fio, which reads and writes as much of each, with the same block size,
depth, O_DIRECT and io_uring. Prints bytes a second of both, and the ratio of the medians.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

BLOCK, DEPTH, SECONDS = 1 << 20, 8, 8

parser = argparse.ArgumentParser()
parser.add_argument("--build", default="build")
parser.add_argument("--folder", default=tempfile.gettempdir())
parser.add_argument("--params", default="256Mi")
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()
if not shutil.which("fio"):
    print("skipped: there is no fio (apt install fio)", file=sys.stderr)
    raise SystemExit(77)


def step(folder):
    config = os.path.join(folder, "ds_config.json")
    with open(config, "w") as file:
        json.dump({"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "optimizer": {"type": "AdamW"},
                   "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": folder}},
                   "aio": {"block_size": BLOCK, "queue_depth": DEPTH}}, file)
    out = subprocess.run([os.path.join(args.build, "bin", "zds-bench"), "step", "--config", config, "--params", args.params,
                          "--tensors", "16", "--steps", "5", "--json"], check=True, stdout=subprocess.PIPE).stdout
    row = json.loads(out)
    return 24 * row["params"] / row["step_ms"] * 1e-6


def fio(folder):
    out = subprocess.run(["fio", "--name=mix", f"--directory={folder}", "--size=2G", "--rw=rw", "--rwmixread=50", f"--bs={BLOCK}",
                          f"--iodepth={DEPTH}", "--direct=1", "--ioengine=io_uring", "--time_based", f"--runtime={SECONDS}",
                          "--fallocate=posix", "--unlink=1", "--output-format=json"], check=True, stdout=subprocess.PIPE).stdout
    job = json.loads(out)["jobs"][0]
    return (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) * 1e-9


ours, theirs = [], []
with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    for _ in range(args.rounds):
        ours.append(step(folder))
        theirs.append(fio(folder))
        print(f"step {ours[-1]:.2f} GB/s, fio {theirs[-1]:.2f} GB/s", flush=True)
print(f"medians: step {statistics.median(ours):.2f}, fio {statistics.median(theirs):.2f} GB/s, "
      f"ratio {statistics.median(ours) / statistics.median(theirs):.2f}")
