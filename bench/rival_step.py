"""The optimizer step of DeepSpeed, one rank of it: what bench/run.py holds `zds-bench step` against.

usage: rival_step.py CONFIG.json PARAMS TENSORS STEPS THREADS     (RANK, WORLD_SIZE, MASTER_* set)
Prints on rank 0 {"step_ms": median, "backward_ms": median, "steps_ms": [..]}. step_ms is
engine.step() alone. What DeepSpeed's backward hooks do (reduction, copies) is in backward_ms and
is not counted against it.
"""
import json
import os
import statistics
import sys
import time

import deepspeed
import torch


class Tensors(torch.nn.Module):
    """Parameters whose gradient is a constant: nothing but the engine takes time."""

    def __init__(self, numel, count, dtype):
        super().__init__()
        side = 2048
        shape = (numel // count // side, side)
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(torch.randn(shape) * 0.02) for _ in range(count))
        self.gradients = [(torch.randn(shape) * 0.01).to(dtype) for _ in range(count)]

    def forward(self):
        return sum((w * g).sum() for w, g in zip(self.weights, self.gradients))


def main():
    config_path, numel, count, steps, threads = sys.argv[1], *map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    torch.manual_seed(int(os.environ["RANK"]))
    deepspeed.init_distributed(dist_backend="gloo")
    with open(config_path) as file:
        config = json.load(file)
    dtype = torch.bfloat16 if config.get("bf16", {}).get("enabled") else torch.float32
    model = Tensors(numel, count, dtype)
    engine, _, _, _ = deepspeed.initialize(model=model, config=config,
                                           model_parameters=model.parameters())
    step_ms, backward_ms = [], []
    for i in range(steps + 2):
        loss = engine()
        torch.distributed.barrier()
        start = time.perf_counter()
        engine.backward(loss)
        torch.distributed.barrier()
        middle = time.perf_counter()
        engine.step()
        torch.distributed.barrier()
        end = time.perf_counter()
        if i >= 2:
            backward_ms.append((middle - start) * 1e3)
            step_ms.append((end - middle) * 1e3)
    if torch.distributed.get_rank() == 0:
        print(json.dumps({"step_ms": statistics.median(step_ms),
                          "backward_ms": statistics.median(backward_ms), "steps_ms": step_ms}))


main()
