"""OneBitLamb on tensors of many blocks, some of which share a block, against its algorithm (Li et al. 2021) written out here in
double: 1 to 3 ranks, stages 0 and 1, 1 and 3 threads. usage: onebit_large.py FOLDER_OF_PROGRAMS"""
import array, json, math, os, random, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

BIN = os.path.abspath(sys.argv[1])
SIZES = {"a": 9001, "b": 3, "c": 7, "d": 12345}
STEPS, FREEZE, LR, BETA1, BETA2, EPS, DECAY = 6, 3, 0.01, 0.9, 0.99, 1e-8, 0.05
failures = 0


def check(name, fault):
    global failures
    failures += bool(fault)
    print(("FAIL " if fault else "ok   ") + name + (f": {fault}" if fault else ""), flush=True)


def normal(name, k, rank, scale):
    source = random.Random(f"{name} {k} {rank}")
    return list(array.array("f", (source.gauss(0, scale) for _ in range(SIZES[name]))))


def norm(x):
    return math.sqrt(math.fsum(a * a for a in x))


def compress(x, error):
    """The scale and signs that travel; what they miss stays in `error`."""
    x = [a + e for a, e in zip(x, error)]
    scale = norm(x) / math.sqrt(len(x))
    sent = [-scale if a < 0 else scale for a in x]
    error[:] = [a - s for a, s in zip(x, sent)]
    return sent


def mean_of(vectors, workers, servers):
    world, padded = len(vectors), len(workers[0])
    if world == 1:
        return vectors[0]
    sent = [compress(v + [0.0] * (padded - len(v)), e) for v, e in zip(vectors, workers)]
    part, result = padded // world, []
    for r in range(world):
        rows = [s[r * part:(r + 1) * part] for s in sent]
        result += compress([sum(column) / world for column in zip(*rows)], servers[r])
    return result[:len(vectors[0])]


def train(world):
    """Parameters after STEPS steps."""
    p = {n: normal(n, "start", 0, 0.5) for n in SIZES}
    m, v = ({n: [0.0] * SIZES[n] for n in SIZES} for _ in range(2))
    frozen, last = dict.fromkeys(SIZES, 0.0), dict.fromkeys(SIZES, 1.0)
    unit = world * math.lcm(world, 8)
    padded = -(-sum(SIZES.values()) // unit) * unit
    workers = [[0.0] * padded for _ in range(world)]
    servers = [[0.0] * (padded // world) for _ in range(world)]
    for step in range(STEPS):
        grads = [{n: normal(n, step, r, 0.1) for n in SIZES} for r in range(world)]
        if step == FREEZE:
            fresh = {n: list(v[n]) for n in SIZES}
            rms = {n: norm(m[n]) / math.sqrt(SIZES[n]) for n in SIZES}
            scaling = {n: sum(rms.values()) / len(SIZES) / rms[n] for n in SIZES}
        if step >= FREEZE:
            mean = mean_of([[scaling[n] * (BETA1 * a + (1 - BETA1) * g) for n in SIZES for a, g in zip(m[n], own[n])]
                            for own in grads], workers, servers)
        for n in SIZES:
            if step < FREEZE:
                g = [sum(x) / world for x in zip(*(own[n] for own in grads))]
                m[n] = [BETA1 * a + (1 - BETA1) * b for a, b in zip(m[n], g)]
                v[n] = [BETA2 * a + (1 - BETA2) * b * b for a, b in zip(v[n], g)]
            else:
                new, mean = [x / scaling[n] for x in mean[:SIZES[n]]], mean[SIZES[n]:]
                fresh[n] = [BETA2 * f + (1 - BETA2) * ((b - BETA1 * a) / (1 - BETA1)) ** 2
                            for f, a, b in zip(fresh[n], m[n], new)]
                m[n] = new
            plain = [a / (math.sqrt(b) + EPS) for a, b in zip(m[n], v[n])]
            update = [a + DECAY * b for a, b in zip(plain, p[n])]
            if step < FREEZE:
                factor = min(max(norm(p[n]) / norm(update), 0.01), 10)
                frozen[n] = 0.9 * frozen[n] + 0.1 * factor
            else:
                ratio = min(1, norm(plain) / norm(update))
                largest = max((math.sqrt(a) + EPS) / (math.sqrt(b) + EPS) for a, b in zip(v[n], fresh[n]))
                factor = min(max(largest * ratio + 1 - ratio, 0.5), 4)
                last[n] = min(max(factor, last[n] * 0.9), last[n] * 1.1)
                factor = frozen[n] * last[n]
            p[n] = [a - LR * factor * b for a, b in zip(p[n], update)]
    return {f"param.{n}": ([SIZES[n]], p[n]) for n in SIZES}


def run(folder, world, stage, threads):
    out, config = os.path.join(folder, "out.safetensors"), os.path.join(folder, "ds.json")
    with open(config, "w") as file:
        json.dump({"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0, "zero_optimization": {"stage": stage},
                   "optimizer": {"type": "OneBitLamb", "params": {"lr": LR, "betas": [BETA1, BETA2], "eps": EPS,
                                                                  "weight_decay": DECAY, "freeze_step": FREEZE}}}, file)
    command = [f"{BIN}/zds-replay", "--config", config, "--params", os.path.join(folder, "start.safetensors"),
               "--grads", folder, "--micro-steps", str(STEPS), "--out", out, "--threads", str(threads)]
    code, _, err = golden.run(golden.ranked(BIN, world, command), timeout=60)
    if code:
        raise RuntimeError(f"exit {code}: {err[-300:]}")
    return golden.read_tensors(out)


with tempfile.TemporaryDirectory() as folder:
    golden.write_tensors(os.path.join(folder, "start.safetensors"),
                         {n: ([SIZES[n]], normal(n, "start", 0, 0.5)) for n in SIZES})
    for k in range(STEPS):
        for r in range(3):
            golden.write_tensors(os.path.join(folder, f"m{k:03d}.r{r}.safetensors"),
                                 {n: ([SIZES[n]], normal(n, k, r, 0.1)) for n in SIZES})
    for world in (1, 2, 3):
        expected = train(world)
        for stage in (0, 1):
            try:
                got = run(folder, world, stage, 1)
                worst = golden.gaps(expected, got, "param.")[-1]
                fault = None if worst < 4e-6 else f"{worst:.2e} off"
                if not fault and run(folder, world, stage, 3) != got:
                    fault = "other bits with 3 threads"
            except RuntimeError as error:
                fault = str(error)
            check(f"{world} ranks, stage {stage}", fault)
sys.exit(1 if failures else 0)
