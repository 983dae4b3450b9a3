"""The optimizer kernels of torch and DeepSpeed on a CPU: prints {kernel: median ms of one step}.

usage: rival_optim.py OPTIMIZER fp32|bf16 PARAMETERS THREADS REPEATS
"""
import json
import os
import statistics
import sys
import time

os.environ.setdefault("DS_ACCELERATOR", "cpu")
import torch


def torch_kernels(name):
    make = getattr(torch.optim, name)
    return {"torch foreach": lambda p: make([p], lr=1e-3, foreach=True),
            "torch fused": lambda p: make([p], lr=1e-3, fused=True)}


def deepspeed_kernels(name, bf16):
    """Those whose states are of the parameter's type."""
    states = {"fp32_optimizer_states": not bf16}
    if name == "AdamW":
        from deepspeed.ops.adam import DeepSpeedCPUAdam
        return {"DeepSpeed": lambda p: DeepSpeedCPUAdam([p], lr=1e-3, adamw_mode=True, **states)}
    if name == "Lion":
        from deepspeed.ops.lion import DeepSpeedCPULion
        return {"DeepSpeed": lambda p: DeepSpeedCPULion([p], lr=1e-3, **states)}
    if name == "Adagrad":
        from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
        return {"DeepSpeed": lambda p: DeepSpeedCPUAdagrad([p], lr=1e-3, **states)}
    return {}


def measure(make, dtype, count, repeats):
    parameter = torch.nn.Parameter(torch.randn(count).to(dtype))
    parameter.grad = torch.randn(count).to(dtype)
    optimizer = make(parameter)
    times = []
    for _ in range(repeats + 2):  # the first two make states, and touch their pages
        start = time.perf_counter()
        optimizer.step()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


def main():
    name, dtype, count, threads, repeats = sys.argv[1:]
    torch.set_num_threads(int(threads))
    kernels = {} if name == "Lion" else torch_kernels(name)
    kernels.update(deepspeed_kernels(name, dtype == "bf16"))
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    print(json.dumps({kernel: measure(make, kind, int(count), int(repeats))
                      for kernel, make in kernels.items()}))


main()
