#!/usr/bin/env python3
"""Golden runs of the 1-bit optimizers: DeepSpeed 0.16's own classes, in float64, over gloo.

usage: make.py DEEPSPEED   (the unpacked source of deepspeed 0.16.4; needs torch, safetensors)

Writes cases.json and a file a case here, from the gradients in ../replay.
What is not DeepSpeed's here: the communication (the arithmetic of its CompressedBackend, with
all-gathers of whole numbers in place of packed bits), and that the step which its classes spend on
set-up is made with a zero gradient and not counted, and that OneBitLamb's padding is 0 in every
step, as OneBitAdam's is (DeepSpeed's keeps what the last step left there). Rank 2 takes the gradients that rank 1 has five
micro steps later."""
import importlib.util
import json
import math
import os
import sys
import types

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
REPLAY = os.path.join(HERE, "..", "replay")
MICRO_STEPS = 16
FILES = {"OneBitAdam": ("adam", "OnebitAdam"), "OneBitLamb": ("lamb", "OnebitLamb"),
         "ZeroOneAdam": ("zoadam", "ZeroOneAdam")}
ADAM = {"lr": 1e-3, "freeze_step": 5, "weight_decay": 0.01}
LAMB = {"lr": 2e-3, "freeze_step": 6, "coeff_beta": 0.8}
ZERO_ONE = {"lr": 1e-3, "var_freeze_step": 7, "var_update_scaler": 2, "local_step_scaler": 3,
            "local_step_clipper": 3}
CASES = [  # id, type, params, world size, accumulation
    ("onebit_adam_w3", "OneBitAdam", ADAM, 3, 1),
    ("onebit_adam_gas2_w2", "OneBitAdam", dict(ADAM, freeze_step=3), 2, 2),
    ("onebit_lamb_w1", "OneBitLamb", LAMB, 1, 1),
    ("onebit_lamb_w2", "OneBitLamb",
     dict(LAMB, weight_decay=0.1, max_coeff=0.5, factor_max=1.5, factor_min=0.9), 2, 1),
    ("onebit_lamb_w3", "OneBitLamb", dict(LAMB, betas=[0.8, 0.9], factor_threshold=0.3), 3, 1),
    # On one rank the reference drops gradients between moves of the mean square: none there.
    ("onebit_zero_one_w1", "ZeroOneAdam", dict(ZERO_ONE, var_update_scaler=16), 1, 1),
    ("onebit_zero_one_w2", "ZeroOneAdam", dict(ZERO_ONE, weight_decay=0.01), 2, 1),
    ("onebit_zero_one_w3", "ZeroOneAdam", ZERO_ONE, 3, 1),
    ("onebit_zero_one_early_w2", "ZeroOneAdam",
     dict(ZERO_ONE, var_freeze_step=2, local_step_scaler=1, local_step_clipper=4), 2, 1),
]


class Backend:
    """DeepSpeed's CompressedBackend, its signs as whole numbers."""

    def __init__(self, _mpu):
        self.size, self.rank = dist.get_world_size(), dist.get_rank()

    def gather(self, x):
        out = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(out, x.contiguous())
        return torch.stack(out)

    @staticmethod
    def compress(x, error):
        x = x + error
        scale = torch.linalg.norm(x) / math.sqrt(x.numel())
        sign = torch.where(x < 0, -1.0, 1.0)
        error.copy_(x - scale * sign)
        return scale * sign

    def compressed_allreduce(self, buffer, worker_error, server_error, _local_rank):
        flat = buffer.flatten()
        padded = torch.cat([flat, torch.zeros(worker_error.numel() - flat.numel())])
        sent = self.gather(self.compress(padded, worker_error))
        part = server_error.numel()
        served = sent[:, self.rank * part:(self.rank + 1) * part].mean(0)
        mean = self.gather(self.compress(served, server_error)).flatten()[:flat.numel()]
        if buffer.numel() == worker_error.numel():  # the reference works in place here
            buffer.data.copy_(mean.reshape(buffer.shape))
        return mean.reshape(buffer.shape)


def load_class(folder, kind):
    """The class out of DeepSpeed's source, without DeepSpeed around it."""
    accelerator = types.SimpleNamespace(empty_cache=lambda: None)
    for name, content in {
            "deepspeed": {"comm": dist}, "deepspeed.comm": vars(dist),
            "deepspeed.accelerator": {"get_accelerator": lambda: accelerator},
            "deepspeed.utils": {}, "deepspeed.runtime": {}, "deepspeed.runtime.comm": {},
            "deepspeed.utils.torch": {"required_torch_version": lambda **_: True},
            "deepspeed.runtime.comm.nccl": {"NcclBackend": Backend}}.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    file, name = FILES[kind]
    path = os.path.join(folder, "deepspeed", "runtime", "fp16", "onebit", file + ".py")
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def gradients(micro, rank):
    if rank == 2:
        micro, rank = (micro + 5) % MICRO_STEPS, 1
    path = os.path.join(REPLAY, "grads", "normal", f"m{micro:03d}.r{rank}.safetensors")
    return {name: value.double() for name, value in load_file(path).items()}


def run(rank, folder, case, port):
    name, kind, options, world, accumulation = case
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.set_default_dtype(torch.float64)
    start = load_file(os.path.join(REPLAY, "init.safetensors"))
    names = sorted(start)  # as zds-replay declares them: OneBitLamb joins tensors in that order
    params = [torch.nn.Parameter(start[n].double()) for n in names]
    engine = types.SimpleNamespace(mpu=None, local_rank=rank, enable_backward_allreduce=True)
    options = dict(options)
    if kind == "ZeroOneAdam":  # its test comes a step later than its documentation says
        options["var_freeze_step"] -= 1
    optimizer = load_class(folder, kind)(params, deepspeed=engine, **options)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p in params:
        optimizer.state[p]["step"] = 0
    for step in range(MICRO_STEPS // accumulation):
        micro = [gradients(step * accumulation + k, rank) for k in range(accumulation)]
        for n, p in zip(names, params):
            p.grad = sum(g[n] for g in micro) / accumulation
            if engine.enable_backward_allreduce:
                dist.all_reduce(p.grad)
                p.grad /= world
        optimizer.step()
        for padding in getattr(optimizer, "dummy_exp_avg", {}).values():
            padding.zero_()
    out = {}
    for n, p in zip(names, params):
        out[f"param.{n}"] = p.data
        for state in ("exp_avg", "exp_avg_sq"):
            out[f"{state}.{n}"] = optimizer.state[p][state].reshape(p.shape)
    if rank == 0:
        save_file({n: t.float().contiguous() for n, t in out.items()},
                  os.path.join(HERE, name + ".safetensors"))
    dist.destroy_process_group()


def main():
    cases = []
    for number, case in enumerate(CASES):
        name, kind, options, world, accumulation = case
        mp.spawn(run, (sys.argv[1], case, 29500 + number), nprocs=world)
        cases.append({"id": name, "world_size": world, "micro_steps": MICRO_STEPS,
                      "ds_config": {"optimizer": {"type": kind, "params": options},
                                    "train_micro_batch_size_per_gpu": 1,
                                    "gradient_accumulation_steps": accumulation,
                                    "gradient_clipping": 0.0, "steps_per_print": 1000000},
                      "tol": {"p99": 1e-6, "max": 4e-6}})
    with open(os.path.join(HERE, "cases.json"), "w") as file:
        json.dump({"cases": cases}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
