"""Rounding at random: the bits are a function of seed, step, parameter and element, so the number of threads changes nothing, nor
does a second run, nor, with the same gradients on every rank, the number of ranks or the stage: these optimizers compute an element,
a block of elements or a whole tensor in one place, and nothing is summed over ranks but gradients, whose means are exact here. And
it is at random: rounding to nearest gives other bits.
usage: rounding.py FOLDER_OF_PROGRAMS"""
import json, math, os, random, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

BIN = os.path.abspath(sys.argv[1])
# more than a tile, odd sizes, matrices and vectors; the last has a gradient in the first step only
SHAPES = {"a.weight": [150, 301], "b.bias": [1001], "c.weight": [8, 5, 3], "d.weight": [33, 64], "e.scalar": [], "f.sometimes": [40, 41]}
OPTIMIZERS = {"AdamW": {"lr": 0.001, "weight_decay": 0.1}, "AdamW8bit": {"lr": 0.001, "weight_decay": 0.1, "min_8bit_size": 512},
              "Muon": {"lr": 0.002, "adam_lr": 0.001, "weight_decay": 0.1}, "Adafactor": {"lr": 0.001, "weight_decay": 0.1}}
MICRO = 3
failures = 0


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail and not good else ""), flush=True)


def make(folder):
    """Values of so few bits that the mean over one, two or three ranks that have the same is exact, in bf16 too."""
    rng = random.Random(11)
    draw = lambda unit: {k: (s, [rng.randrange(-8, 9) * unit for _ in range(math.prod(s))]) for k, s in SHAPES.items()}
    golden.write_tensors(f"{folder}/init.safetensors", draw(1 / 16))
    os.makedirs(f"{folder}/grads")
    for k in range(MICRO):
        grads = draw(1 / 8)
        if k:
            del grads["f.sometimes"]
        for r in range(3):
            golden.write_tensors(f"{folder}/grads/m{k:03d}.r{r}.safetensors", grads)


def replay(folder, optimizer, stage, ranks, threads, at_random=True):
    """All weights and states after the steps, as the file's bytes by name."""
    zds = {"stochastic_rounding": True} if at_random else {}
    with open(f"{folder}/ds.json", "w") as f:
        json.dump({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}, "zds": zds,
                   "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True},
                   "optimizer": {"type": optimizer, "params": OPTIMIZERS[optimizer]}}, f)
    command = [f"{BIN}/zds-replay", "--config", f"{folder}/ds.json", "--params", f"{folder}/init.safetensors", "--grads",
               f"{folder}/grads", "--micro-steps", str(MICRO), "--out", f"{folder}/out.safetensors", "--threads", str(threads)]
    code, _, err = golden.run(golden.ranked(BIN, ranks, command), 120)
    if code:
        check(f"{optimizer} stage {stage}, {ranks} ranks", False, err[-300:])
        return {}
    out = golden.read_tensors(f"{folder}/out.safetensors")
    os.remove(f"{folder}/out.safetensors")
    return {name: values.tobytes() for name, (_, values) in out.items()}


def differing(a, b):
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k)) or ("no output" if not a else "")


with tempfile.TemporaryDirectory() as folder:
    make(folder)
    for name in OPTIMIZERS:
        first = replay(folder, name, 1, 1, 1)
        for ranks in (1, 2, 3):
            for stage in (1, 2):
                for threads in (1, 2, 3):
                    off = differing(first, replay(folder, name, stage, ranks, threads))
                    check(f"{name}: {ranks} ranks, stage {stage}, {threads} threads: the bits of one rank and thread", not off, off)
        nearest = replay(folder, name, 1, 1, 1, at_random=False)
        check(f"{name}: other bits than rounding to nearest", all(first.get(f"param.{k}") != nearest.get(f"param.{k}") for k in
                                                                   ("a.weight", "b.bias", "d.weight")))
sys.exit(1 if failures else 0)
