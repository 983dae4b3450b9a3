#!/usr/bin/env python3
"""Makes tests/data/optim: what reference implementations leave of generated weights and gradients
(see generated.py) after 12 steps. Needs torch, safetensors, mup and bitsandbytes from PyPI.

usage: make.py [CASE...]
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file

OUT = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(OUT, "..", ".."))
import generated


def tensors(flat, dtype):
    return {name: torch.tensor(values, dtype=torch.float32).reshape(shape).to(dtype)
            for name, (shape, values) in flat.items()}


def run(make, dtype=torch.float64, rate=None):
    """Steps a torch optimizer, with rate(step) if given; returns {param.NAME: .., STATE.NAME: ..} in
    fp32."""
    params = {name: torch.nn.Parameter(value)
              for name, value in tensors(generated.weights(), dtype).items()}
    optimizer = make(params)
    for step in range(generated.STEPS):
        gradients = tensors(generated.gradients(step), dtype)
        for name, param in params.items():
            param.grad = gradients.get(name)
        for group in optimizer.param_groups if rate else ():
            group["lr"] = rate(step)
        optimizer.step()
    out = {f"param.{name}": param.detach().float() for name, param in params.items()}
    for name, param in params.items():
        for state, value in optimizer.state[param].items():
            if torch.is_tensor(value) and value.shape == param.shape:
                if value.dtype != torch.uint8:  # else bitsandbytes' codes, under its names
                    state = {"state1": "exp_avg", "state2": "exp_avg_sq"}.get(state, state)
                out[f"{state}.{name}"] = value.detach().float()
    return out


def torch_optim(name, rate=None, **options):
    return lambda: run(lambda params: getattr(torch.optim, name)(params.values(), **options),
                       rate=rate)


def mup_optim(name, **options):
    import mup
    from mup.infshape import InfDim, InfShape

    def make(params):
        for param_name, param in params.items():
            about = generated.ABOUT[param_name]
            dims = [InfDim(None, extent) for extent in param.shape]
            if "width_mult" in about:  # the last dimension has grown, and perhaps the first
                dims[-1] = InfDim(param.shape[-1] / about["width_mult"], param.shape[-1])
            if "fan_out_mult" in about:
                dims[0] = InfDim(param.shape[0] / about["fan_out_mult"], param.shape[0])
            param.infshape = InfShape(dims)
        return getattr(mup, name)(list(params.values()), **options)
    return lambda: run(make)


def adamw_8bit(**options):
    """bitsandbytes' CPU path. Its native quantiser does not always find the nearest value of the map;
    its generic one, taken for types other than 16 and 32 bits, does."""
    def make(params):
        import bitsandbytes
        import bitsandbytes.backends.cpu.ops as ops

        def nearest(values, code, absmax, out, blocksize):
            codes, largest = torch.ops.bitsandbytes.quantize_blockwise(values.double(), code,
                                                                       blocksize)
            out.copy_(codes)
            absmax.copy_(largest)
        ops._quant_blockwise_fp32_direct = nearest
        bitsandbytes.optim.GlobalOptimManager.get_instance().initialize()
        optimizer = bitsandbytes.optim.AdamW8bit(params.values(), **options)
        # as StableEmbedding registers itself
        bitsandbytes.optim.GlobalOptimManager.get_instance().override_config(
            params["embed.weight"], "optim_bits", 32)
        return optimizer
    return lambda: run(make, torch.float32)


def adam_bf16(lr, weight_decay, decoupled):
    """Adam in float64 of gradients, weights and states that are rounded to bfloat16 when stored, as
    DeepSpeed's kernel does (csrc/includes/cpu_adam.h: computed in fp32, plain rounding)."""
    def rounded(x):
        return x.bfloat16().double()

    def compute():
        p = {name: rounded(x) for name, x in tensors(generated.weights(), torch.float64).items()}
        m = {name: torch.zeros_like(x) for name, x in p.items()}
        v = {name: torch.zeros_like(x) for name, x in p.items()}
        for step in range(1, generated.STEPS + 1):
            bias1, bias2 = 1 - 0.9 ** step, 1 - 0.999 ** step
            for name, g in tensors(generated.gradients(step - 1), torch.float64).items():
                g, start = rounded(g), p[name]
                if decoupled:
                    start = start * (1 - lr * weight_decay)
                else:
                    g = g + weight_decay * start
                new_m = 0.9 * m[name] + 0.1 * g
                new_v = 0.999 * v[name] + 0.001 * g * g
                p[name] = rounded(start - lr / bias1 * new_m / ((new_v / bias2).sqrt() + 1e-8))
                m[name], v[name] = rounded(new_m), rounded(new_v)
        return {f"{kind}.{name}": x.float() for kind, all_of in
                (("param", p), ("exp_avg", m), ("exp_avg_sq", v)) for name, x in all_of.items()}
    return compute


def case(kind, params, reference, tol=(1e-6, 4e-6), stages=(0, 1, 2), **more):
    return {"ds_config": {"optimizer": {"type": kind, "params": params}, **more},
            "tol": {"p99": tol[0], "max": tol[1]}, "stages": list(stages), "reference": reference}


def by_torch(name, tol=(1e-6, 4e-6), **options):
    return case(name, options, torch_optim(name, **options), tol)


def by_mup(name, **options):
    return case(name, options, mup_optim(name, **options))


BF16 = {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True,
                 "bf16_optimizer_states": True}}
CASES = {
    "adamw8bit": case("AdamW8bit", {"lr": 0.01}, adamw_8bit(lr=0.01), (1e-5, 2e-3)),
    "adamw8bit_all": case("AdamW8bit", {"lr": 0.01, "betas": [0.8, 0.95], "eps": 1e-6,
                                        "weight_decay": 0, "min_8bit_size": 0},
                          adamw_8bit(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0,
                                     min_8bit_size=0), (1e-5, 2e-3)),
    "adamw_bf16_states": case("AdamW", {"lr": 0.01, "weight_decay": 0.01},
                              adam_bf16(0.01, 0.01, True), (4e-3, 8e-3), (1, 2), **BF16),
    "adam_bf16_states": case("Adam", {"lr": 0.01, "weight_decay": 0.1, "adam_w_mode": False},
                             adam_bf16(0.01, 0.1, False),
                             (4e-3, 8e-3), (1, 2), **BF16),
    "muadam": by_mup("MuAdam", lr=0.01, weight_decay=0.1),
    "muadam_amsgrad": by_mup("MuAdam", lr=0.01, amsgrad=True, decoupled_weight_decay=True,
                             weight_decay=0.1),
    "muadamw": by_mup("MuAdamW", lr=0.01, weight_decay=0.1, betas=[0.8, 0.9], maximize=True),
    "musgd": by_mup("MuSGD", lr=0.01, weight_decay=0.1, momentum=0.9, nesterov=True),
    "asgd": by_torch("ASGD", lr=0.1, t0=4, lambd=0.01, alpha=0.8),
    "asgd_decay": by_torch("ASGD", weight_decay=0.1, maximize=True),
    "rprop": by_torch("Rprop"),
    "rprop_options": by_torch("Rprop", lr=0.02, etas=[0.4, 1.5], step_sizes=[0.003, 0.05],
                              maximize=True),
    # the first step has the size of the rate in that step; later rates change nothing
    "rprop_schedule": case("Rprop", {"lr": 0.5},
                           torch_optim("Rprop", lambda step: 0.02 + min(step / 4, 1) * 0.48, lr=0.5),
                           scheduler={"type": "WarmupLR", "params": {
                               "warmup_min_lr": 0.02, "warmup_max_lr": 0.5, "warmup_num_steps": 4,
                               "warmup_type": "linear"}}),
    # where eps[0] is null, torch takes the precision of the parameter's type
    "adafactor": case("Adafactor", {}, torch_optim("Adafactor", eps=(2.0 ** -23, 1e-3))),
    "adafactor_options": by_torch("Adafactor", lr=0.1, beta2_decay=-0.5, eps=[1e-4, 0.01], d=1.5,
                                  weight_decay=0.1, maximize=True),
}


def main():
    wanted = sys.argv[1:] or list(CASES)
    os.makedirs(os.path.join(OUT, "expect"), exist_ok=True)
    index = os.path.join(OUT, "cases.json")
    cases = {}
    if os.path.exists(index):
        with open(index) as file:
            cases = {entry["id"]: entry for entry in json.load(file)["cases"]}
    for name in wanted:
        entry = dict(CASES[name])
        out = entry.pop("reference")()
        save_file({key: value.contiguous() for key, value in out.items()},
                  os.path.join(OUT, "expect", f"{name}.safetensors"))
        cases[name] = {"id": name, **entry}
        print(name, len(out), "tensors")
    with open(index, "w") as file:
        json.dump({"cases": [cases[name] for name in CASES if name in cases]}, file, indent=1)
        file.write("\n")


main()
