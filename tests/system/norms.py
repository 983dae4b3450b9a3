"""Lamb through zds-replay against its formula in double precision: norms of tensors that span many
tiles, chunks and ranks, at every stage; the same bits with any number of threads.
usage: norms.py FOLDER_OF_PROGRAMS"""
import array
import json
import math
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

PROGRAMS = os.path.abspath(sys.argv[1])
SHAPES = {"long": [150001], "matrix": [257, 33], "zero": [700], "scalar": [], "empty": [0, 4]}
STEPS, RANKS = 3, 3
LR, BETA1, BETA2, EPS, DECAY, LEAST, MOST = 1e-2, 0.9, 0.99, 1e-6, 0.1, 0.05, 0.4


def draw(rng, scale, skip=()):
    return {name: (shape, array.array("f", (rng.gauss(0, scale) for _ in range(math.prod(shape)))))
            for name, shape in SHAPES.items() if name not in skip}


def make(folder):
    """Writes weights, and gradients that are the same on all ranks; returns both."""
    rng = random.Random(11)
    weights = draw(rng, 0.5)
    weights["matrix"] = (SHAPES["matrix"], array.array("f", (x / 3 for x in weights["matrix"][1])))
    weights["zero"] = (SHAPES["zero"], array.array("f", bytes(4 * 700)))  # its norm starts at 0
    golden.write_tensors(f"{folder}/init.safetensors", weights)
    means = []
    for step in range(STEPS):
        means.append(draw(rng, 0.3, skip=["zero"] if step == 0 else []))
        for rank in range(RANKS):
            golden.write_tensors(f"{folder}/m{step:03d}.r{rank}.safetensors", means[-1])
    return weights, means


def lamb(weights, means):
    """DeepSpeed's FusedLamb: no bias correction but in the rate; a clamped ratio of norms."""
    p = {name: list(values) for name, (_, values) in weights.items()}
    m = {name: [0.0] * len(values) for name, values in p.items()}
    v = {name: [0.0] * len(values) for name, values in p.items()}
    ratios = set()
    for step, gradients in enumerate(means, 1):
        rate = LR * math.sqrt(1 - BETA2 ** step) / (1 - BETA1 ** step)
        for name, (_, g) in gradients.items():
            m[name] = [BETA1 * a + (1 - BETA1) * b for a, b in zip(m[name], g)]
            v[name] = [BETA2 * a + (1 - BETA2) * b * b for a, b in zip(v[name], g)]
            u = [a / (math.sqrt(b) + EPS) + DECAY * w for a, b, w in zip(m[name], v[name], p[name])]
            w, un = math.sqrt(sum(x * x for x in p[name])), math.sqrt(sum(x * x for x in u))
            ratio = min(max(w / un, LEAST), MOST) if w and un else 1.0
            ratios.add("least" if ratio == LEAST else "most" if ratio == MOST else
                       "one" if ratio == 1 else "between")
            p[name] = [a - rate * ratio * b for a, b in zip(p[name], u)]
    assert {"least", "most", "one", "between"} <= ratios, ratios  # the data reaches these branches
    return p


def replay(folder, stage, ranks, threads):
    config = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
              "gradient_clipping": 0.0, "zero_optimization": {"stage": stage},
              "optimizer": {"type": "Lamb", "params": {
                  "lr": LR, "betas": [BETA1, BETA2], "eps": EPS, "weight_decay": DECAY,
                  "min_coeff": LEAST, "max_coeff": MOST}}}
    with open(f"{folder}/ds.json", "w") as file:
        json.dump(config, file)
    command = [f"{PROGRAMS}/zds-replay", "--config", f"{folder}/ds.json", "--params",
               f"{folder}/init.safetensors", "--grads", folder, "--micro-steps", str(STEPS),
               "--out", f"{folder}/out.safetensors", "--threads", str(threads)]
    code, _, err = golden.run(golden.ranked(PROGRAMS, ranks, command), 120)
    if code:
        raise ValueError(f"exit {code}: {err[-500:]}")
    return golden.read_tensors(f"{folder}/out.safetensors")


def main():
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        expected = lamb(*make(folder))
        for ranks in range(1, RANKS + 1):
            for stage in range(3):
                got = replay(folder, stage, ranks, 1)
                again = replay(folder, stage, ranks, 3)
                off = max(abs(x - y) for name in expected
                          for x, y in zip(expected[name], got[f"param.{name}"][1]))
                complete = all(len(got[f"param.{n}"][1]) == len(expected[n]) for n in expected)
                good = complete and off < 2e-6 and got == again
                failures += not good
                print(f"{'ok  ' if good else 'FAIL'} {ranks} ranks, stage {stage}: {off:.1e} off, "
                      f"{'the same' if got == again else 'other'} bits with 3 threads", flush=True)
    return 1 if failures else 0


sys.exit(main())
