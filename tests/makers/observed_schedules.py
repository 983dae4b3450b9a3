"""Golden rates of the schedules that follow a metric: tests/data/schedule_observed.json.

Run with transformers 5.23 and torch 2.15 on the path:  python3 tests/makers/observed_schedules.py
Each case: type, params, the groups' rates at the start, metrics (null: NaN), and the rates of all
groups before the first and after each metric, as transformers' get_scheduler computes them.
"""
import json
import math
import os
import random

import torch
from transformers import get_scheduler

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "data", "schedule_observed.json")


def noisy(seed, count, start, slope, noise):
    """A metric that falls by `slope` a step, floor 0.1, with noise around it."""
    r = random.Random(seed)
    return [max(0.1, start - slope * i) + r.gauss(0, noise) for i in range(count)]


FLAT = [1.0] * 30
FALLING = [3.0 - 0.05 * i for i in range(40)]
NOISY = noisy(1, 120, 4.0, 0.05, 0.2)
LONG = noisy(2, 400, 2.0, 0.02, 0.05)
WITH_NAN = [1.0, 0.9, math.nan, 0.8, math.nan, math.nan, math.nan, 0.7, 0.9, 0.9, 0.9]

PLATEAU, GREEDY = "reduce_lr_on_plateau", "greedy"
CASES = [
    (PLATEAU, {}, [0.01], FLAT),
    (PLATEAU, {}, [0.01], NOISY),
    (PLATEAU, {"factor": 0.5, "patience": 2, "cooldown": 3}, [0.01, 0.002], NOISY),
    (PLATEAU, {"factor": 0.5, "patience": 0, "min_lr": 1e-3}, [0.01], NOISY),
    (PLATEAU, {"factor": 0.5, "patience": 0, "min_lr": [1e-3, 5e-4]}, [0.01, 0.01], NOISY),
    (PLATEAU, {"mode": "max", "patience": 3}, [0.01], NOISY),
    (PLATEAU, {"mode": "max", "patience": 1, "threshold": 0.05, "threshold_mode": "abs"}, [0.01],
     [0.03 * i for i in range(20)] + [0.5] * 10),
    (PLATEAU, {"threshold": 0.2, "patience": 2, "factor": 0.3}, [0.01], FALLING),
    (PLATEAU, {"threshold": 0.3, "threshold_mode": "abs", "patience": 2}, [0.01], FALLING),
    (PLATEAU, {"factor": 0.999, "eps": 1e-3, "patience": 0}, [0.01], FLAT),
    (PLATEAU, {"factor": 0, "patience": 1}, [0.01], FLAT),
    (PLATEAU, {"patience": 1, "factor": 0.5}, [0.01], WITH_NAN),
    (GREEDY, {}, [0.01], FALLING),
    (GREEDY, {}, [5e-5], NOISY),
    (GREEDY, {"patience": 1, "factor": 0.8, "min_lr": 1e-4, "max_lr": 0.05}, [0.01], NOISY),
    (GREEDY, {"patience": 2, "factor": 0.5, "cooldown": 4, "warmup": 3, "min_lr": 0}, [0.01, 0.004],
     NOISY),
    (GREEDY, {"patience": 0, "factor": 0.5, "min_lr": [1e-3, 2e-3], "max_lr": [0.02, 0.04]},
     [0.01, 0.02], LONG),
    (GREEDY, {"patience": 1, "smooth": True, "window_size": 7, "min_lr": 1e-5}, [0.01], NOISY),
    (GREEDY, {"patience": 0, "factor": 0.5, "min_lr": 1e-3, "reset_start": 5}, [0.01], LONG),
    (GREEDY, {"patience": 1, "factor": 0.5, "min_lr": 1e-3, "reset_start": 3, "smooth": True,
              "window_size": 4, "cooldown": 1}, [0.01], LONG),
    (GREEDY, {"patience": 0, "factor": 0.5, "min_lr": 1e-3, "reset_start": 0}, [0.01], FLAT),
    (GREEDY, {"mode": "max", "threshold": 0.01, "threshold_mode": "rel", "patience": 2}, [0.01],
     [0.1 + 0.01 * i for i in range(40)]),
    (GREEDY, {"patience": 1, "factor": 0.5, "min_lr": 1e-4}, [0.01], WITH_NAN),
    (GREEDY, {"eps": 1e-2, "patience": 0, "min_lr": 0}, [0.01], FALLING),
]


def run(name, params, rates, metrics):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates]
    optimizer = torch.optim.SGD(groups, lr=rates[0])
    scheduler = get_scheduler(name, optimizer, scheduler_specific_kwargs=dict(params))
    seen = [[g["lr"] for g in optimizer.param_groups]]
    for metric in metrics:
        scheduler.step(metric)
        seen.append([g["lr"] for g in optimizer.param_groups])
    return seen


def main():
    out = []
    for name, params, rates, metrics in CASES:
        seen = run(name, params, rates, metrics)
        out.append({"type": name, "params": params, "lr": rates,
                    "metrics": [None if math.isnan(m) else m for m in metrics], "rates": seen})
    with open(OUT, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")
    print(f"{len(out)} cases in {os.path.relpath(OUT)}")


if __name__ == "__main__":
    main()
