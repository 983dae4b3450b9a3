#!/usr/bin/env python3
"""What ranks of one node take at each stage and offload, beside what ZeRO's formulas say.

usage: bench/memory.py [--build DIR] [--folder DIR] [--params P] [--tensors T] [--ranks N ...]
For each: states is what the formulas have in memory (parameters, gradients, masters, states; of pages that
the ranks share a rank's part), reported those of them that the engine says it took, buffers what it took
besides, bounded by the config (in MiB a rank); PSS, what the system says the process has; and its ratio to
states and buffers together, where the program's own memory counts against it.
"""
import argparse
import json
import os
import subprocess
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("--build", default="build")
parser.add_argument("--folder", default=tempfile.gettempdir())
parser.add_argument("--params", type=int, default=124439808)
parser.add_argument("--tensors", type=int, default=148)
parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4])
args = parser.parse_args()
STATES = ("parameters", "gradients", "master weights", "optimizer states")
MODULE = args.params // args.tensors


def config(stage, bf16, offload):
    files = {"device": "nvme", "nvme_path": args.folder}
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 2 * MODULE, "stage3_prefetch_bucket_size": MODULE}
    if "s" in offload:
        zero["offload_optimizer"] = files
    if "p" in offload:
        zero["offload_param"] = files | {"max_in_cpu": 0}
    return {"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW"},
            "bf16": {"enabled": bf16}, "zero_optimization": zero}


def formula(stage, bf16, offload, ranks):
    """Bytes of a rank that stay in the host's memory."""
    size, masters = (2, 4) if bf16 else (4, 4 if offload else 0)
    cut = ranks if stage else 1
    parameters = 0 if "p" in offload else size / cut
    gradients = size / (ranks if stage >= 2 else 1)
    return args.params * (parameters + gradients + (0 if "s" in offload else (masters + 8) / cut))


def measure(stage, bf16, offload, ranks, folder):
    path = os.path.join(folder, "ds_config.json")
    with open(path, "w") as file:
        json.dump(config(stage, bf16, offload), file)
    out = subprocess.run(
        [os.path.join(args.build, "bin", "zds-run"), "-n", str(ranks),
         os.path.join(args.build, "bin", "zds-bench"), "step", "--config", path, "--params",
         str(args.params), "--tensors", str(args.tensors), "--steps", "3", "--threads", "1", "--json"],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    row = json.loads(out)
    host = {name: mib for tier, rows in row["memory"].items() if tier != "nvme"
            for name, mib in rows.items()}
    states = sum(mib for name, mib in host.items() if name in STATES)
    return states, sum(host.values()) - states, row["pss_mib"]


print(f"{'':<34}{'states':>8}{'reported':>9}{'buffers':>8}{'PSS':>8}{'ratio':>8}")
with tempfile.TemporaryDirectory() as folder:
    for bf16 in (False, True):
        for stage, offload in ((0, ""), (1, ""), (2, ""), (3, ""), (3, "s"), (3, "p"), (3, "sp")):
            for ranks in args.ranks:
                states, buffers, pss = measure(stage, bf16, offload, ranks, folder)
                wanted = formula(stage, bf16, offload, ranks) / 2**20
                where = {"": "", "s": ", states", "p": ", parameters", "sp": ", both"}[offload]
                name = f"{'bf16' if bf16 else 'fp32'}, ZeRO-{stage}{where}, {ranks} ranks"
                print(f"{name:<34}{wanted:8.0f}{states:9.0f}{buffers:8.0f}{pss:8.0f}"
                      f"{pss / (wanted + buffers):8.3f}", flush=True)
