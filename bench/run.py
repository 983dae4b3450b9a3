#!/usr/bin/env python3
"""zds and its rivals, alternately in one run: medians, ratios, and the bars that zds sets itself.

usage: bench/run.py [step] [comm] [train] [zero3] [config] [optim] [--rounds N] [--build DIR] [--json FILE]
  step    64 Mi parameters in 16 tensors, AdamW, clipping: DeepSpeed's engine.step()
  comm    64 MiB of fp32 a rank, 2 ranks: Open MPI, gloo, memcpy
  train   a GPT-2 of 10.8 M parameters, 2 ranks: DeepSpeed + transformers; torch.compile
  zero3   the same at ZeRO-3, without and with offload to cpu: DeepSpeed, and zds's own ZeRO-0 (on a
          processor with AMX DeepSpeed's bf16 products are faster than zds's, which are fp32)
  config  two golden configs, from file to checked: DeepSpeed + transformers
  optim   64 Mi parameters, the update alone: torch's and DeepSpeed's CPU kernels
The rivals' virtual environment is $ZDS_RIVALS, else bench/.venv, which is made if it is missing
(6 GB). zds is taken from --build (default: build, configured and compiled if it is missing).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
import measure
import measure_optim
import rivals

PARTS = {**measure.PARTS, "optim": measure_optim.optim}


def build(folder):
    if not os.path.exists(os.path.join(folder, "bin", "zds-bench")):
        subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DBUILD_TESTING=OFF"],
                       check=True, stdout=sys.stderr)
        subprocess.run(["cmake", "--build", folder], check=True, stdout=sys.stderr)
    return os.path.join(folder, "bin")


def medians(samples):
    """[{name: number}] -> {name: median}"""
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


def alternate(name, sides, rounds):
    """Each round runs every side once; {side: {quantity: median over rounds}}."""
    samples = {side: [] for side in sides}
    for number in range(rounds):
        for side, measured in sides.items():
            print(f"{name}: round {number + 1} of {rounds}, {side}", file=sys.stderr, flush=True)
            samples[side].append(measured())
    return {side: medians(rows) for side, rows in samples.items()}


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip())
    print(flush=True)


def report(results):
    for name, result in results.items():
        print(name)
        names = sorted({quantity for side in result["sides"].values() for quantity in side})
        table([["", *names], *([side, *(f"{values[q]:.4g}" if q in values else "-" for q in names)]
                               for side, values in result["sides"].items())])
    rows = [["", "value", "bar", ""]]
    for name, result in results.items():
        for bar in result["bars"]:
            sign = "<=" if bar["at_most"] else ">="
            met = bar["value"] <= bar["bar"] if bar["at_most"] else bar["value"] >= bar["bar"]
            rows.append([f"{name}: {bar['what']}", f"{bar['value']:.3f}", f"{sign} {bar['bar']:g}",
                         "met" if met else "MISSED"])
    table(rows)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--json")
    arguments = parser.parse_args()
    parts = arguments.parts or list(PARTS)
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}")
    subprocess.run([os.path.join(ROOT, ".ci", "install"), "bench"], check=True)
    programs, python = build(arguments.build), rivals.environment()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            for name, sides, bars in PARTS[part](programs, python, folder):
                medians_of = alternate(name, sides, arguments.rounds)
                results[name] = {"sides": medians_of, "bars": bars(medians_of)}
    report(results)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


main()
