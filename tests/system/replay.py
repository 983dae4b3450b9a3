"""zds-replay at 1, 2 and 3 ranks against AdamW written out in double precision here: every stage, scalars and tensors without
elements, parameters without gradient, accumulation, clipping; the same bits twice and with any number of threads; files that are
missing, truncated or of another shape. usage: replay.py FOLDER_OF_PROGRAMS"""
import array, json, math, os, random, subprocess, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

BIN = os.path.abspath(sys.argv[1])
SHAPES = {"a.weight": [37, 53], "b.bias": [], "c.empty": [0, 4], "d.unused": [9], "e.long": [5003], "f.one": [1]}
failures = 0


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail else ""), flush=True)


def save(path, tensors):
    golden.write_tensors(path, {name: (SHAPES.get(name, [len(values)]), values) for name, values in tensors.items()})


def load(path):
    return {name: values for name, (_, values) in golden.read_tensors(path).items()}


def f32(values):
    return list(array.array("f", values))


def numel(name):
    return math.prod(SHAPES[name])


def make(folder, micro, ranks):
    rng = random.Random(7)
    draw = lambda n, s: f32([rng.gauss(0, s) for _ in range(n)])
    init = {k: draw(numel(k), 0.5) for k in SHAPES}
    save(f"{folder}/init.safetensors", init)
    os.makedirs(f"{folder}/grads")
    grads = []
    for k in range(micro):
        grads.append([])
        for r in range(ranks):
            g = {n: draw(numel(n), 0.3) for n in SHAPES if n != "d.unused" and not (n == "f.one" and k % 2 == 0 and r > 0)}
            save(f"{folder}/grads/m{k:03d}.r{r}.safetensors", g)
            grads[-1].append(g)
    return init, grads


def adamw(init, grads, ranks, gas, clip, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, wd=0.1):
    """Decoupled weight decay (Loshchilov and Hutter 2019), bias correction, global clipping, mean over ranks and micro steps."""
    p = {k: list(v) for k, v in init.items()}
    m = {k: [0.0] * len(v) for k, v in init.items()}
    v = {k: [0.0] * len(w) for k, w in init.items()}
    norms = []
    for step in range(len(grads) // gas):
        window = [g[r] for g in grads[step * gas:(step + 1) * gas] for r in range(ranks)]
        mean = {k: [sum(g[k][i] for g in window if k in g) / (gas * ranks) for i in range(len(p[k]))]
                for k in p if any(k in g for g in window)}
        norm = math.sqrt(sum(x * x for g in mean.values() for x in g))
        norms.append(norm)
        scale = clip / (norm + 1e-6) if clip and norm + 1e-6 > clip else 1.0
        for k, g in mean.items():
            for i, x in enumerate(g):
                x *= scale
                m[k][i] = betas[0] * m[k][i] + (1 - betas[0]) * x
                v[k][i] = betas[1] * v[k][i] + (1 - betas[1]) * x * x
                mh, vh = m[k][i] / (1 - betas[0] ** (step + 1)), v[k][i] / (1 - betas[1] ** (step + 1))
                p[k][i] = p[k][i] * (1 - lr * wd) - lr * mh / (math.sqrt(vh) + eps)
    return p, m, v, norms


def config(folder, gas, clip, stage, **more):
    ds = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": gas, "gradient_clipping": clip,
          "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "betas": [0.9, 0.95], "weight_decay": 0.1}},
          "zero_optimization": {"stage": stage, **more.pop("zero", {})}, **more}
    with open(f"{folder}/ds.json", "w") as f:
        json.dump(ds, f)


def run(folder, ranks, micro, out="out", threads="1", grads="grads", more=()):
    cmd = [f"{BIN}/zds-replay", "--config", f"{folder}/ds.json", "--params", f"{folder}/init.safetensors", "--grads", f"{folder}/{grads}",
           "--micro-steps", str(micro), "--out", f"{folder}/{out}.safetensors", "--metrics", f"{folder}/{out}.json", "--threads", threads, *more]
    if ranks > 1:
        cmd = [f"{BIN}/zds-run", "-n", str(ranks)] + cmd
    return subprocess.run(cmd, capture_output=True, text=True, timeout=120)


def against_formula(micro):
    for ranks in (1, 2, 3):
        with tempfile.TemporaryDirectory() as inner:
            init, grads = make(inner, micro, ranks)
            for gas, clip in ((1, 0.0), (2, 3.0)):
                p, m, v, norms = adamw(init, grads, ranks, gas, clip)
                cases = [(s, {}) for s in (0, 1, 2)]
                cases += [(1, {"zero": {"reduce_scatter": False}}), (2, {"zero": {"reduce_scatter": False, "overlap_comm": False}}),
                          (2, {"zero": {"reduce_bucket_size": 64, "overlap_comm": True}}), (0, {"prescale_gradients": True}),
                          (1, {"zero": {"reduce_scatter": False}, "gradient_predivide_factor": 2.0})]
                for stage, more in cases:
                    config(inner, gas, clip, stage, **json.loads(json.dumps(more)))
                    q = run(inner, ranks, micro)
                    name = f"{ranks} ranks gas {gas} stage {stage} {more}"
                    if q.returncode:
                        check(name, False, q.stderr[-300:])
                        continue
                    got = load(f"{inner}/out.safetensors")
                    off = max((abs(x - y) for k in p for x, y in zip(p[k], got[f"param.{k}"])), default=9)
                    offm = max(abs(x - y) for k in p for x, y in zip(m[k], got[f"exp_avg.{k}"]))
                    offv = max(abs(x - y) for k in p for x, y in zip(v[k], got[f"exp_avg_sq.{k}"]))
                    offn = max(abs(r["grad_norm"] - n) / n for r, n in zip(json.load(open(f"{inner}/out.json")), norms))
                    same = all(len(got[f"param.{k}"]) == len(p[k]) for k in p)
                    check(name, same and off < 4e-6 and offm < 1e-6 and offv < 1e-6 and offn < 1e-6,
                          f"parameters {off:.1e} moments {offm:.1e} {offv:.1e} norm {offn:.1e}")


def same_bits(micro):
    with tempfile.TemporaryDirectory() as inner:
        make(inner, micro, 2)
        for bf16 in (False, True):
            config(inner, 2, 1.0, 2, bf16={"enabled": bf16})
            for out, threads in (("one", "1"), ("again", "1"), ("three", "3")):
                run(inner, 2, micro, out, threads)
            files = [open(f"{inner}/{o}.safetensors", "rb").read() for o in ("one", "again", "three")]
            check(f"same bits twice and with 3 threads, bf16 {bf16}", files[0] == files[1] == files[2])


def versions(micro):
    """States that are not plain values have a version, which a reader of the file sees."""
    with tempfile.TemporaryDirectory() as inner:
        make(inner, micro, 1)
        config(inner, 1, 0.0, 1)
        told = []
        for optimizer in ({"type": "AdamW"}, {"type": "AdamW8bit", "params": {"min_8bit_size": 1000}}):
            with open(f"{inner}/ds.json") as f:
                ds = json.load(f)
            with open(f"{inner}/ds.json", "w") as f:
                json.dump({**ds, "optimizer": optimizer}, f)
            q = run(inner, 1, micro)
            told.append(golden.read_metadata(f"{inner}/out.safetensors") if q.returncode == 0 else q.stderr[-200:])
        check("plain states have no version", told[0] == {}, str(told[0]))
        coded = {f"version.{state}.{name}": "1" for state in ("state1", "state2") for name in ("a.weight", "e.long")}
        check("states of 8 bits have one", told[1] == coded, str(told[1]))


def bad_inputs(micro):
    with tempfile.TemporaryDirectory() as inner:
        make(inner, micro, 1)
        config(inner, 1, 0.0, 1)
        cases = []
        cases.append(("more micro steps than files", run(inner, 1, micro + 1), f"m{micro:03d}.r0"))
        cases.append(("a folder that is not there", run(inner, 1, micro, grads="nowhere"), "nowhere"))
        cases.append(("an output that cannot be written", run(inner, 1, micro, out="no/such/out"), "no/such/out"))
        os.makedirs(f"{inner}/short")
        whole = open(f"{inner}/grads/m000.r0.safetensors", "rb").read()
        open(f"{inner}/short/m000.r0.safetensors", "wb").write(whole[:-40])
        cases.append(("a truncated file", run(inner, 1, 1, grads="short"), "m000.r0.safetensors"))
        os.makedirs(f"{inner}/shape")
        SHAPES["f.one"] = [1, 1]
        save(f"{inner}/shape/m000.r0.safetensors", {"f.one": [1.0]})
        SHAPES["f.one"] = [1]
        cases.append(("another shape", run(inner, 1, 1, grads="shape"), "f.one"))
        os.makedirs(f"{inner}/other")
        save(f"{inner}/other/m000.r0.safetensors", {"g.stranger": [1.0]})
        cases.append(("a gradient of no parameter", run(inner, 1, 1, grads="other"), "g.stranger"))
        with open(f"{inner}/about.json", "w") as f:
            f.write('{"w.nowhere": {"role": "bias"}}')
        cases.append(("a role of no parameter", run(inner, 1, micro, more=["--about", f"{inner}/about.json"]), "w.nowhere"))
        with open(f"{inner}/about.json", "w") as f:
            f.write('{"f.one": {"width_mult": 0}}')
        cases.append(("no width", run(inner, 1, micro, more=["--about", f"{inner}/about.json"]), "f.one.width_mult"))
        config(inner, 3, 0.0, 1)
        cases.append(("gradients of no step", run(inner, 1, micro), "no multiple of gradient_accumulation_steps"))
        for name, q, word in cases:
            check(name, q.returncode == 1 and word in q.stderr, q.stderr.strip()[-200:])
        left = [n for n in os.listdir(inner) if n.startswith("out")]
        check("nothing is written on failure", not left, str(left))


against_formula(8)
same_bits(8)
versions(2)
bad_inputs(4)
sys.exit(1 if failures else 0)
