"""A program and a plugin that know nothing but the frozen headers of ABI 1.0 (tests/plugins/abi_1_0), on the library of
today, beside a plugin of today's headers: what comes out is what gradient descent with momentum makes of
(w - 3)^2 / 2. usage: abi_old.py FOLDER_OF_PROGRAMS"""
import json
import math
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import expect, run

BIN = os.path.abspath(sys.argv[1])
PLUGINS = os.path.join(os.path.dirname(BIN), "tests", "plugins")
STEPS, RATE, MOMENTUM = 20, 0.03, 0.75
SIZES = [7 * 30, 7, 5]
TRAINED = [0, 1]


def initial(param):
    return [0.25 * (i % 16) + param for i in range(SIZES[param])]


def formula():
    """{(what, parameter): values}, the norms and nothing of zds's: v = m v + g, w = w - rate v, g = w - 3."""
    values = {("value", p): initial(p) for p in range(len(SIZES))}
    sums = {("momentum_buffer", p): [0.0] * SIZES[p] for p in TRAINED}
    norms = []
    for _ in range(STEPS):
        norms.append(math.sqrt(sum((w - 3) ** 2 for p in TRAINED for w in values["value", p])))
        for p in TRAINED:
            w, v = values["value", p], sums["momentum_buffer", p]
            for i, x in enumerate(w):
                v[i] = MOMENTUM * v[i] + x - 3
                w[i] -= RATE * v[i]
    return {**values, **sums}, norms


def near(a, b):
    return abs(a - b) <= 1e-5 * max(1, abs(b))


def check(folder, plugin, name, ranks, stage):
    config = os.path.join(folder, "ds_config.json")
    with open(config, "w", encoding="utf-8") as file:
        json.dump({"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 2, "gradient_clipping": 0.0,
                   "optimizer": {"type": name, "params": {"lr": RATE, "momentum": MOMENTUM}},
                   "zero_optimization": {"stage": stage}}, file)
    command = [os.path.join(BIN, "zds-run"), "-n", str(ranks), os.path.join(BIN, "old_program"), config, str(STEPS)]
    lines = [line.split() for line in run(command, env=dict(os.environ, ZDS_PLUGIN_PATH=folder)).splitlines()]
    got = {}
    for line in lines:
        if line[0] in ("value", "momentum_buffer"):
            got.setdefault((line[0], int(line[1])), []).append(float(line[3]))
    steps = [line for line in lines if line[0] == "step"]
    wanted, norms = formula()
    where = f"{plugin} plugin, stage {stage}, {ranks} ranks"
    expect([line[1:4] for line in steps] == [[str(i + 1), "1", "0"] for i in range(STEPS)] and
           all(near(float(line[4]), norm) for line, norm in zip(steps, norms)), f"{where}: steps and norms")
    expect(got.keys() == wanted.keys() and all(len(got[key]) == len(wanted[key]) and
                                               all(map(near, got[key], wanted[key])) for key in wanted),
           f"{where}: values and states are the formula's")
    expect(["group", str(len(TRAINED)), str(sum(SIZES[p] for p in TRAINED)), f"{RATE:g}", "1"] in lines,
           f"{where}: other structs are as long as they were")


with tempfile.TemporaryDirectory() as temporary:
    os.umask(0o022)
    for file in ("old_abi_1_0.so", "momentum.so"):
        shutil.copy(os.path.join(PLUGINS, file), temporary)
    for kind, optimizer in (("an old", "Old"), ("a new", "Momentum")):
        for world, zero in ((1, 0), (2, 1), (3, 2)):
            check(temporary, kind, optimizer, world, zero)
