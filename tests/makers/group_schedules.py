"""Golden rates of DeepSpeed's schedules where groups differ, and of the options that schedule.json does not reach (stairs, momentum,
later starts): tests/data/schedule_groups.json.

Run with DeepSpeed 0.19.8 and torch on the path:  DS_ACCELERATOR=cpu python3 tests/makers/group_schedules.py
Each case: type, params, the groups' rates, and for each step the groups' [rate, beta1, beta2], as DeepSpeed's classes set them at
creation and at each call of step().
"""
import json
import os
import random

import torch
from deepspeed.runtime import lr_schedules

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "data", "schedule_groups.json")
STEPS = 36
r = random.Random(11)


def maybe_list(values, groups):
    return [r.choice(values) for _ in range(groups)] if r.random() < 0.5 else r.choice(values)


def one_cycle(groups):
    p = {"cycle_min_lr": maybe_list([1e-4, 1e-3], groups), "cycle_max_lr": maybe_list([0.01, 0.02], groups),
         "cycle_first_step_size": r.choice([5, 7, 10.5]), "decay_step_size": r.choice([0, 3, 4]), "decay_lr_rate": r.choice([0, 0.3]),
         "decay_mom_rate": r.choice([0, 0.02]), "cycle_momentum": r.random() < 0.8, "cycle_min_mom": maybe_list([0.8, 0.85], groups),
         "cycle_max_mom": maybe_list([0.9, 0.95], groups), "cycle_first_stair_count": r.choice([0, 2, 3, 5])}
    if r.random() < 0.6:
        p["cycle_second_step_size"] = r.choice([4, 9, 13])
    if r.random() < 0.6:
        p["cycle_second_stair_count"] = r.choice([0, 1, 4])
    return p


def range_test(groups):
    return {"lr_range_test_min_lr": maybe_list([1e-3, 2e-3], groups), "lr_range_test_step_size": r.choice([3, 7]),
            "lr_range_test_step_rate": r.choice([0.5, 2.0]), "lr_range_test_staircase": r.random() < 0.5}


def warmup(groups):
    p = {"warmup_min_lr": maybe_list([0.0, 1e-4], groups), "warmup_num_steps": r.choice([4, 10]), "warmup_type": r.choice(["log", "linear"])}
    if r.random() < 0.7:
        p["warmup_max_lr"] = maybe_list([0.01, 0.02, 0.03], groups)
    return p


def warmup_decay(groups):
    return dict(warmup(groups), warmup_max_lr=maybe_list([0.01, 0.02], groups), total_num_steps=r.choice([20, 30]))


def warmup_cosine(_):
    return {"total_num_steps": 25, "warmup_num_steps": r.choice([4, 10]), "warmup_min_ratio": r.choice([0.0, 0.1]),
            "cos_min_ratio": r.choice([1e-4, 0.2])}


def run(name, params, rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates]
    optimizer = torch.optim.AdamW(groups, lr=rates[0])
    scheduler = getattr(lr_schedules, name)(optimizer, **params)
    now = lambda: [[float(g["lr"]), *map(float, g["betas"])] for g in optimizer.param_groups]
    seen = [now()]
    for _ in range(STEPS):
        scheduler.step()
        seen.append(now())
    return seen


def main():
    out = []
    for name, make, count in (("OneCycle", one_cycle, 16), ("LRRangeTest", range_test, 6), ("WarmupLR", warmup, 6),
                              ("WarmupDecayLR", warmup_decay, 4), ("WarmupCosineLR", warmup_cosine, 3)):
        for k in range(count):
            rates = [0.01, 0.004, 0.02][:1 + k % 3]
            params = make(len(rates))
            if k % 4 == 3:
                params["last_batch_iteration"] = 2
            out.append({"type": name, "params": params, "lr": rates, "values": run(name, params, rates)})
    with open(OUT, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")
    print(f"{len(out)} cases in {os.path.relpath(OUT)}")


if __name__ == "__main__":
    main()
