#!/usr/bin/env python3
"""Muon's step beside the time of its matrix products alone, alternately in one run.

usage: bench/muon.py [--build DIR] [--threads T] [--rounds N] [--rows R] [--cols C] [--matrices N]
The products are oneDNN's, called on whole matrices with its own threads: `full` as the reference
computes them, `halved` what the same rate would give where symmetric products are computed by half.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

parser = argparse.ArgumentParser()
parser.add_argument("--build", default="build")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--rows", type=int, default=768)
parser.add_argument("--cols", type=int, default=3072)
parser.add_argument("--matrices", type=int, default=6)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    products, config = os.path.join(folder, "products"), os.path.join(folder, "ds_config.json")
    subprocess.run(["cc", "-O2", "-fopenmp", os.path.join(HERE, "muon_products.c"), "-ldnnl", "-o",
                    products], check=True)
    with open(config, "w") as file:
        json.dump({"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0,
                   "optimizer": {"type": "Muon"}, "zero_optimization": {"stage": 1}}, file)
    sides = {
        "step": [os.path.join(args.build, "bin", "zds-bench"), "step", "--config", config,
                 "--params", str(args.matrices * args.rows * args.cols), "--rows", str(args.rows),
                 "--tensors", str(args.matrices), "--steps", "5", "--threads", str(args.threads),
                 "--json"],
        "products": [products, str(args.matrices), str(args.rows), str(args.cols),
                     str(args.threads), "3"]}
    rows = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, command in sides.items():
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            rows[side].append(json.loads(out))
step = statistics.median(row["step_ms"] for row in rows["step"])
full = statistics.median(row["full_ms"] for row in rows["products"])
halved = statistics.median(row["halved_ms"] for row in rows["products"])
print(f"{args.matrices} matrices {args.rows} x {args.cols}, {args.threads} threads: step "
      f"{step:.1f} ms; products in full {full:.1f} ms, step / products {step / full:.2f}; "
      f"halved {halved:.1f} ms, step / products {step / halved:.2f}")
