"""zds-train as a user meets it: learning, metrics, repeatable bits, equal losses at every ZeRO stage, fresh weights, dropout,
token files, generation; bad input of every kind ends with a message and leaves nothing; Ctrl-C.
usage: train.py FOLDER_OF_PROGRAMS"""
import array, json, os, random, shutil, signal, struct, subprocess, sys, tempfile, time

BIN = os.path.abspath(sys.argv[1])
failures = 0
CONFIG = dict(model_type="gpt2", vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
              attn_pdrop=0.0)
ADAM = dict(type="AdamW", params=dict(lr=3e-3, weight_decay=0.01))
DS = dict(train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=2, optimizer=ADAM, zero_optimization=dict(stage=0))


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail else ""), flush=True)


def write(path, data):
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


class Run:
    """One run in a folder of its own; `model` None: fresh weights."""

    def __init__(self, *flags, config=CONFIG, ds=DS, text=None, model=None, ranks=1, out="out", base=None, keep=False):
        self.base = base or tempfile.mkdtemp(dir=ROOT)
        self.out = os.path.join(self.base, out)
        text = write(f"{self.base}/text", TEXT if text is None else text)
        start = ["--model_name_or_path", model] if model else ["--config_name", write(f"{self.base}/config.json", config)]
        self.command = (["%s/zds-run" % BIN, "-n", str(ranks), "--bind", "none"] if ranks > 1 else []) + [
            f"{BIN}/zds-train", *start, "--train_file", text, "--deepspeed", write(f"{self.base}/ds.json", ds), "--output_dir",
            self.out, *map(str, flags)]
        if not keep:
            p = subprocess.run(self.command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
            self.code, self.stdout, self.stderr = p.returncode, p.stdout, p.stderr.decode(errors="replace")

    def metrics(self):
        with open(f"{self.out}/metrics.jsonl") as f:
            return [json.loads(line) for line in f]

    def losses(self):
        return [m["loss"] for m in self.metrics()]

    def model(self):
        with open(f"{self.out}/model.safetensors", "rb") as f:
            return f.read()


def header(data):
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n])


def trained(r, name):
    check(f"{name}: ends well", r.code == 0, "" if r.code == 0 else f"exit {r.code}: {r.stderr[-300:]}")
    return r.code == 0


def learning():
    r = Run("--max_steps", 40, "--generate", 40, "--logging_steps", 5)
    if not trained(r, "fresh model"):
        return
    m = r.metrics()
    first, last = m[0]["loss"], sum(x["loss"] for x in m[-5:]) / 5
    check("starts at the loss of a uniform guess, log(256)", abs(first - 5.545) < 0.1, f"{first:.3f}")
    check("learns", last < first - 1.5, f"{first:.3f} to {last:.3f}")
    fields = {"step", "loss", "learning_rate", "grad_norm", "loss_scale", "skipped", "tokens_per_second", "step_time_ms"}
    check("fields of metrics.jsonl", set(m[0]) == fields and [x["step"] for x in m] == list(range(1, 41)), str(sorted(m[0])))
    check("a constant rate without --lr_scheduler_type", all(x["learning_rate"] == 3e-3 for x in m))
    check("a line each 5 steps where stderr is no terminal", r.stderr.count("\nstep ") + r.stderr.startswith("step ") == 8 and
          "\r" not in r.stderr)
    check("the curve and the memory are told", "loss" in r.stderr and "activations and scratch" in r.stderr)
    text = r.stdout.decode()
    check("generated text follows the beginning of the training text", text.startswith(TEXT[:16].decode()) and len(text) > 50,
          repr(text[:60]))
    h = header(r.model())
    config = json.load(open(f"{r.out}/config.json"))
    check("saved as GPT2LMHeadModel", config["architectures"] == ["GPT2LMHeadModel"] and config["dtype"] == "float32" and
          h["__metadata__"] == {"format": "pt"} and "transformer.h.1.mlp.c_proj.weight" in h and "lm_head.weight" not in h)
    again = Run("--max_steps", 40, "--generate", 40, "--logging_steps", 5)
    check("the same bits twice", again.losses() == r.losses() and again.model() == r.model() and again.stdout == r.stdout)
    other = Run("--max_steps", 2, "--seed", 7)
    check("another seed, another run", other.losses() != r.losses()[:2])
    on = Run("--max_steps", 2, model=r.out)
    check("the saved model goes on where it was", trained(on, "from a folder") and abs(on.losses()[0] - last) < 0.5,
          f"{on.losses()[0]:.3f} after {last:.3f}")
    return r


def stages():
    runs = {}
    for stage in (0, 1, 2):
        for ranks in (1, 2):
            ds = dict(DS, zero_optimization=dict(stage=stage), train_micro_batch_size_per_gpu=4 // ranks)
            r = Run("--max_steps", 6, "--data_order", "sequential", ds=ds, ranks=ranks)
            if trained(r, f"stage {stage}, {ranks} ranks"):
                runs[stage, ranks] = r.losses()
    base = runs.get((0, 1), [])
    for key, losses in runs.items():
        off = max(abs(a - b) for a, b in zip(base, losses))
        check(f"losses of stage {key[0]}, {key[1]} ranks are those of stage 0 on one", off < 1e-5, f"off by {off:.1e}")
    bf16 = Run("--max_steps", 6, "--data_order", "sequential", ranks=2,
               ds=dict(DS, zero_optimization=dict(stage=2), train_micro_batch_size_per_gpu=2, bf16=dict(enabled=True)))
    if trained(bf16, "stage 2, bf16"):
        off = max(abs(a - b) for a, b in zip(base, bf16.losses()))
        check("bf16 is near", off < 0.02, f"off by {off:.1e}")
        check("bf16 is saved as such", header(bf16.model())["transformer.wte.weight"]["dtype"] == "BF16")


def variants():
    r = Run("--max_steps", 8, config=dict(CONFIG, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1))
    trained(r, "dropout")
    check("dropout is repeatable", Run("--max_steps", 8, config=dict(CONFIG, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)).losses()
          == r.losses())
    r = Run("--max_steps", 3, config=dict(CONFIG, tie_word_embeddings=False, n_inner=48, activation_function="relu"))
    check("untied head", trained(r, "untied") and "lm_head.weight" in header(r.model()))
    ids = array.array("H", [random.Random(3).randrange(300) for _ in range(3000)]).tobytes()
    r = Run("--max_steps", 2, "--token_dtype", "u16", "--generate", 5, config=dict(CONFIG, vocab_size=300), text=ids)
    check("token ids of two bytes", trained(r, "u16") and len(r.stdout.split()) == 21, r.stdout.decode())
    r = Run("--max_steps", 6, "--lr_scheduler_type", "linear", "--warmup_steps", 2, "--learning_rate", 1e-3,
            ds={k: v for k, v in DS.items() if k != "optimizer"})
    if trained(r, "the program's own optimizer and schedule"):
        want = [0.0005, 0.001, 0.00075, 0.0005, 0.00025, 0]
        got = [m["learning_rate"] for m in r.metrics()]
        check("linear with warm-up", all(abs(a - b) < 1e-9 for a, b in zip(want, got)), str(got))
    r = Run("--num_train_epochs", 2, text=TEXT[:32 * 24 + 1])
    check("24 blocks in batches of 4, two epochs: 12 steps", trained(r, "epochs") and len(r.metrics()) == 12)
    r = Run("--max_steps", 2, "--block_size", 8)
    trained(r, "a shorter block")


def refused(name, code, words, *flags, **options):
    """Fails with this code and these words, and leaves nothing behind."""
    r = Run(*(flags or ("--max_steps", 2)), **options)
    said = all(w in r.stderr for w in words)
    left = os.listdir(r.out) if os.path.isdir(r.out) else None
    check(f"{name}: refused", r.code == code and said and left is None,
          "" if r.code == code and said and left is None else f"exit {r.code}, left {left}: {r.stderr[-400:]}")


def bad_input(good):
    folder = tempfile.mkdtemp(dir=ROOT)
    model = good.model()
    n = struct.unpack("<Q", model[:8])[0]
    h = header(model)

    def bad_model(data, config=None):
        path = tempfile.mkdtemp(dir=ROOT)
        write(f"{path}/config.json", config or CONFIG)
        if data is not None:
            write(f"{path}/model.safetensors", data)
        return path

    def with_header(change):
        new = json.loads(json.dumps(h))
        change(new)
        text = json.dumps(new).encode()
        return struct.pack("<Q", len(text)) + text + model[8 + n:]

    a, b = "transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias"
    refused("no weights", 1, ["model.safetensors", "No such file"], model=bad_model(None))
    refused("truncated weights", 1, ["model.safetensors", "truncated", "tensor"], model=bad_model(model[:-100]))
    refused("cut header", 1, ["truncated", "header"], model=bad_model(model[:n // 2]))
    refused("huge header", 1, ["header"], model=bad_model(b"\xff" * 8 + model[8:]))
    refused("header of junk", 1, ["not valid JSON"], model=bad_model(struct.pack("<Q", 40) + b"{" + b"x" * 39 + model[n + 8:]))
    refused("overlapping tensors", 1, ["ln_1", "overlap"], model=bad_model(with_header(lambda x: x[b].update(data_offsets=x[a]["data_offsets"]))))
    refused("wrong shape", 1, [a], model=bad_model(with_header(lambda x: x[a].update(shape=[2, 16]))))
    refused("a tensor is missing", 1, [b, "config.json asks for"], model=bad_model(with_header(lambda x: x.update(other=x.pop(b)))))
    refused("other layers than the config's", 1, ["h.1"], model=bad_model(model, dict(CONFIG, n_layer=1)))
    refused("other width than the config's", 1, ["shape"], model=bad_model(model, dict(CONFIG, n_embd=64)))
    refused("no config.json", 1, ["config.json", "No such file"], model=folder)
    for key, value in dict(model_type="llama", n_head=5, n_layer=0, activation_function="mish", add_cross_attention=True, resid_pdrop=1.5,
                           some_new_key=1, vocab_size="many", architectures=["GPT2ForSequenceClassification"], n_embd=-1,
                           layer_norm_epsilon=0).items():
        refused(f"config.json: {key} = {value!r}", 1, [key, "config.json"], config=dict(CONFIG, **{key: value}))
    refused("config.json is no JSON", 1, ["config.json:1", "JSON"], config=b"{,}")
    refused("a vocabulary without tokens", 1, ["vocabulary", "--token_dtype"], config=dict(CONFIG, vocab_size=300))
    refused("a token outside the vocabulary", 1, ["is 200", "vocabulary has 100"], "--max_steps", 2, "--token_dtype", "u8",
            config=dict(CONFIG, vocab_size=100), text=bytes([200]) * 500)
    refused("a text shorter than a block", 1, ["text", "less than one block"], text=b"short")
    refused("an empty text", 1, ["text", "less than one block"], text=b"")
    refused("half a token", 1, ["whole tokens"], "--max_steps", 2, "--token_dtype", "u16", text=b"x" * 999)
    refused("a block longer than the positions", 1, ["--block_size", "32"], "--max_steps", 2, "--block_size", 33)
    refused("a config with problems", 1, ["ds.json", "stagee"], ds=dict(DS, zero_optimization=dict(stagee=1)))
    refused("a config that differs from the arguments", 3, ["learning_rate"], "--max_steps", 2, "--learning_rate", "1e-5")
    refused("two ranks tell it once", 1, ["less than one block"], text=b"short", ranks=2)
    twice = Run("--max_steps", 2, text=b"short", ranks=2)
    check("two ranks tell it once, indeed", twice.stderr.count("less than one block") == 1, twice.stderr)
    for flags in (["--max_step", 2], ["--max_steps", "x"], ["--max_steps", 0], ["--data_order", "random"], ["--optim", "sgd"]):
        refused(" ".join(map(str, flags)), 2, [flags[0]], *flags)
    before = {f: open(f"{good.out}/{f}", "rb").read() for f in os.listdir(good.out)}
    r = Run("--max_steps", 2, base=good.base)
    check("an output folder that holds a model: refused", r.code == 1 and "--overwrite_output_dir" in r.stderr, r.stderr[-200:])
    r = Run("--max_steps", 2, "--overwrite_output_dir", "--token_dtype", "u8", base=good.base, config=dict(CONFIG, vocab_size=50))
    check("a run that fails overwrites nothing", r.code == 1 and
          all(open(f"{good.out}/{f}", "rb").read() == before[f] for f in before), r.stderr[-200:])
    r = Run("--max_steps", 2, "--overwrite_output_dir", base=good.base)
    check("with the flag it is replaced", r.code == 0 and r.model() != before["model.safetensors"] and len(r.metrics()) == 2 and
          set(os.listdir(good.out)) == set(before), f"{sorted(os.listdir(good.out))} {r.stderr[-200:]}")
    write(f"{folder}/file", b"")
    r = Run("--max_steps", 2, base=folder, out="file/out")
    check("an output folder that cannot be made", r.code == 1 and "--output_dir" in r.stderr, r.stderr[-200:])


def small_print():
    """What a careful user would trip over."""
    r = Run("--max_steps", 2, ds=dict(DS, dump_state=True), out="a/b//c")
    check("a run that fails leaves none of the folders that it made", r.code == 1 and not os.path.exists(f"{r.base}/a"), r.stderr[-200:])
    os.mkdir(f"{r.base}/a")
    r = Run("--max_steps", 2, ds=dict(DS, dump_state=True), out="a/b/c", base=r.base)
    check("but those that were there", r.code == 1 and os.listdir(f"{r.base}/a") == [], str(os.listdir(r.base)))
    for size in (-5, 0):
        r = Run("--max_steps", 2, "--block_size", size)
        check(f"--block_size {size}: wrong usage", r.code == 2 and "--block_size" in r.stderr, f"{r.code} {r.stderr}")
    r = Run("--max_steps", 6, ds=dict(DS, optimizer=dict(type="SGD", params=dict(lr=1e30)), gradient_clipping=0))
    check("a loss that is no number has no sign", "loss nan" in r.stderr and "-nan" not in r.stderr, r.stderr[-300:])
    check("and is null in the metrics", any(m["loss"] is None for m in r.metrics()))
    scheduler = dict(type="WarmupLR", params=dict(warmup_num_steps=2))
    plain = {k: v for k, v in DS.items() if k != "gradient_accumulation_steps"}
    moot = dict(weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-7, lr_scheduler_type="linear", max_grad_norm=2)
    flags = [x for k, v in moot.items() for x in (f"--{k}", v)]
    r = Run("--max_steps", 1, *flags, "--warmup_steps", 2, ds=dict(plain, optimizer=dict(type="AdamW", params=dict(lr=1e-3)), scheduler=scheduler))
    told = [line for line in r.stderr.splitlines() if "has no effect" in line]
    check("arguments that the config leaves without effect are told", trained(r, "moot") and len(told) == len(moot) and
          all(any(f"--{k} " in line and "ds.json:1:" in line for line in told) for k in moot), "\n".join(told))
    auto = dict(plain, gradient_clipping="auto", gradient_accumulation_steps="auto", optimizer=dict(type="AdamW", params=dict(
        lr="auto", weight_decay="auto", betas="auto", eps="auto")), scheduler=dict(type="WarmupLR", params=dict(warmup_num_steps="auto")))
    flags = [x for k, v in moot.items() if k != "lr_scheduler_type" for x in (f"--{k}", v)]
    r = Run("--max_steps", 1, *flags, "--warmup_steps", 2, "--learning_rate", 1e-3, ds=auto)
    check("and none that it reads", trained(r, "auto") and "has no effect" not in r.stderr, r.stderr)
    r = Run("--max_steps", 1, *flags[:8], "--warmup_ratio", 0.5, ds={k: v for k, v in DS.items() if k != "optimizer"})
    check("nor those of the program's own optimizer", trained(r, "own") and "has no effect" not in r.stderr, r.stderr)
    r = Run("--max_steps", 2, keep=True)
    p = subprocess.run(["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *r.command], stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    check("a file that may grow no longer is an error", p.returncode == 1 and b"File too large" in p.stderr, f"{p.returncode} {p.stderr[-200:]}")


def alive(group):
    try:
        os.killpg(group, 0)
        return True
    except ProcessLookupError:
        return False


def signals():
    for number in (signal.SIGINT, signal.SIGTERM):
        for ranks in (1, 2):
            r = Run("--max_steps", 1000000, "--logging_steps", 1, ranks=ranks, keep=True)
            p = subprocess.Popen(r.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 start_new_session=True)
            metrics = f"{r.out}/metrics.jsonl"
            end = time.time() + 60
            while time.time() < end and not (os.path.exists(metrics) and os.path.getsize(metrics)):
                time.sleep(0.05)
            if number == signal.SIGINT:
                os.killpg(p.pid, number)  # as the terminal does
            else:
                p.send_signal(number)
            code = p.wait(30)
            time.sleep(0.2)
            files = os.listdir(r.out)
            check(f"signal {number}, {ranks} ranks: all end, no half files", code in (-number, 128 + number) and files == ["metrics.jsonl"]
                  and not alive(p.pid), f"exit {code}, {files}, processes left: {alive(p.pid)}")
            for line in open(metrics).read().splitlines()[:-1]:
                json.loads(line)
    r = Run("--max_steps", 1)
    before = {f: open(f"{r.out}/{f}", "rb").read() for f in os.listdir(r.out)}
    r = Run("--max_steps", 1000000, "--overwrite_output_dir", "--logging_steps", 1, base=r.base, keep=True)
    p = subprocess.Popen(r.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while "step 2/" not in p.stderr.readline():
        pass
    p.send_signal(signal.SIGINT)
    code = p.wait(30)
    p.stderr.close()
    after = {f: open(f"{r.out}/{f}", "rb").read() for f in os.listdir(r.out)}
    check("a signal in a run that overwrites leaves what was there", code == -signal.SIGINT and after == before, f"{code} {sorted(after)}")


with tempfile.TemporaryDirectory() as ROOT:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "away"]
    rng = random.Random(1)
    TEXT = " ".join(rng.choice(words) for _ in range(4000)).encode()
    good = learning()
    stages()
    variants()
    if good:
        bad_input(good)
        small_print()
    signals()
print(f"{failures} failures")
sys.exit(1 if failures else 0)
