"""zds.param_groups and schedules that follow a metric, as users of the programs meet them: zds-config check, schema and schedule,
zds-replay on one and two ranks against gradient descent written out here, zds-train. usage: groups.py FOLDER_OF_PROGRAMS"""
import array, json, math, os, random, subprocess, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

BIN = os.path.abspath(sys.argv[1])
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "data")
failures = 0
SHAPES = {"wte.weight": [40, 8], "h.0.weight": [8, 8], "h.0.bias": [8], "h.1.weight": [8, 8], "h.1.bias": [8]}


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail and not good else ""), flush=True)


def run(*command, program="zds-config", timeout=120):
    p = subprocess.run([f"{BIN}/{program}", *map(str, command)], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    return p.returncode, p.stdout, p.stderr


def write(name, value):
    path = os.path.join(ROOT, name)
    with open(path, "w") as f:
        f.write(value if isinstance(value, str) else json.dumps(value))
    return path


def save(path, tensors):
    golden.write_tensors(path, {name: (SHAPES[name], values) for name, values in tensors.items()})


def load(path):
    return {name: values for name, (_, values) in golden.read_tensors(path).items()}


# --- zds-config

def config_check():
    path = write("bad.json", """{
  "train_batch_size": 1,
  "optimizer": {"type": "AdamW", "params": {}},
  "zds": {"param_groups": [
    {"params": "*.bias", "weight_decay": 0},
    {"params": ["wte*", "h.[0"],
     "momentum": 0.9,
     "eps": 1e-6,
     "betas": [0.9, 1.5],
     "lrr": 1e-3}
  ]}
}
""")
    code, out, err = run("check", path)
    text = out + err
    check("check: exit 1", code == 1, text)
    for line, words in ((6, "zds.param_groups.1.params.1: a set has no ']'"), (7, "zds.param_groups.1.momentum: is no option of AdamW; "
                        "a group has lr, betas, weight_decay of its own"), (8, "zds.param_groups.1.eps: unknown key; it is an option of AdamW and belongs in optimizer.params"),
                        (9, "zds.param_groups.1.betas: must be at least 0 and below 1, not 1.5"),
                        (10, "zds.param_groups.1.lrr: unknown key; did you mean lr?")):
        found = [t for t in text.splitlines() if words in t]
        check(f"check: {words}", len(found) == 1 and f"bad.json:{line}:" in found[0], text)
    good = write("good.json", {"train_batch_size": 1, "optimizer": {"type": "SGD", "params": {"lr": 1, "momentum": 0.9}},
                               "zds": {"param_groups": [{"params": "*.bias", "lr": 1e-3, "momentum": 0.5, "weight_decay": 0},
                                                        {"params": "*", "lr": None, "momentum": None, "weight_decay": None}]}})
    code, out, err = run("check", good)
    check("check: a good config", code == 0, out + err)
    late = write("late.json", {"train_batch_size": 1, "optimizer": {"type": "SGD", "params": {"lr": 1}},
                               "zds": {"param_groups": [{"params": "*.bias", "momentum": 0.5}]}})
    code, out, err = run("check", late)
    check("check: what the optimizer itself refuses of a group",
          code == 1 and "error: zds.param_groups.0.momentum: optimizer SGD: its group has the momentum 0.5" in out, out + err)
    code, out, err = run("get", good, "zds.param_groups.0.lr")
    check("get: a value in a group", code == 0 and float(out) == 1e-3, out + err)
    code, out, err = run("schema")
    groups = json.loads(out)["properties"]["zds"]["properties"]["param_groups"]
    items = groups["items"]["properties"]
    check("schema: the keys of a group", set(items) == {"params", "lr", "betas", "momentum", "weight_decay"} and
          groups["items"]["additionalProperties"] is False, str(groups))


def schedule_follows():
    with open(os.path.join(DATA, "schedule_observed.json")) as f:
        cases = [c for c in json.load(f) if len(c["lr"]) == 1 and None not in c["metrics"]]
    for k, case in enumerate(cases):
        ds = write("observed.json", {"train_batch_size": 1, "optimizer": {"type": "SGD", "params": {"lr": case["lr"][0]}},
                                     "scheduler": {"type": case["type"], "params": case["params"]}})
        metrics = write("metrics.json", case["metrics"])
        steps = len(case["metrics"])
        code, out, err = run("schedule", ds, "--steps", steps, "--json", "--observe", metrics)
        lr = json.loads(out)["lr"] if code == 0 else []
        check(f"schedule --observe: {case['type']} {k}", len(lr) == steps and
              all(math.isclose(a, b[0], rel_tol=1e-12) for a, b in zip(lr, case["rates"])), err)
    code, _, err = run("schedule", ds, "--steps", 5)
    check("schedule: no metric for one that follows it", code == 1 and "follows a metric" in err, err)
    code, _, err = run("schedule", ds, "--steps", 5, "--observe", metrics)
    check("schedule: more metrics than steps", code == 1 and "metrics, but there are 5 steps" in err, err)
    plain = write("plain.json", {"train_batch_size": 1, "optimizer": {"type": "SGD", "params": {"lr": 1}}})
    code, _, err = run("schedule", write("linear.json", {"train_batch_size": 1, "optimizer": {"type": "SGD", "params": {}}, "scheduler": {
        "type": "WarmupLR", "params": {}}}), "--steps", 500, "--observe", metrics)
    check("schedule: a metric for one that follows none", code == 1 and "follows no metric" in err, err)
    for text in ("{}", "[1, \"2\"]", "[1"):
        code, _, err = run("schedule", plain, "--steps", 5, "--observe", write("wrong.json", text))
        check(f"schedule: {text} is no list of metrics", code == 1 and "wrong.json" in err, err)


def schedule_of_groups():
    """Lists of one rate a group: shown are the parameters that no group takes, or the last group where all are taken."""
    for names, rates in (("*.weight", [1, 2, 4]), ("*.weight", [1, 4]), ("*", [1, 4]), ("*", [1, 2, 4])):
        ds = write("lists.json", {"train_batch_size": 1, "optimizer": {"type": "AdamW", "params": {}}, "scheduler": {
            "type": "WarmupLR", "params": {"warmup_max_lr": rates, "warmup_num_steps": 2}}, "zds": {"param_groups": [
                {"params": "*.bias", "weight_decay": 0}, {"params": names, "lr": 0.5}]}})
        code, out, err = run("schedule", ds, "--steps", 9, "--json")
        if names == "*" and len(rates) == 3:  # as of an engine: "*" leaves nothing for a third group
            check("schedule: a rate too many", code == 1 and "has 3 values for 2 parameter groups" in out, out + err)
        else:
            check(f"schedule: a list of {len(rates)} rates", code == 0 and json.loads(out)["lr"][-1] == 4, out + err)
    ds = write("own.json", {"train_batch_size": 1, "optimizer": {"type": "AdamW", "params": {"lr": 0.25}}, "zds": {"param_groups": [
        {"params": "*.bias", "lr": 0.5}]}})
    code, out, err = run("schedule", ds, "--steps", 1, "--json")
    check("schedule: the optimizer's rate where no group takes", code == 0 and json.loads(out)["lr"] == [0.25], out + err)
    ds = write("all.json", {"train_batch_size": 1, "optimizer": {"type": "AdamW", "params": {"lr": 0.25}}, "zds": {"param_groups": [
        {"params": "*.bias", "lr": 0.5}, {"params": "*", "lr": 0.75}]}})
    code, out, err = run("schedule", ds, "--steps", 1, "--json")
    check("schedule: the rate of the group that takes all others", code == 0 and json.loads(out)["lr"] == [0.75], out + err)
    for params, rate in (({}, 0.02), ({"muon_lr": 0.5}, 0.5), ({"lr": 0.25, "muon_lr": 0.5}, 0.5)):
        ds = write("muon.json", {"train_batch_size": 1, "optimizer": {"type": "Muon", "params": params}, "scheduler": {
            "type": "polynomial", "params": {"num_warmup_steps": 0, "num_training_steps": 4, "lr_end": 0}}})
        code, out, err = run("schedule", ds, "--steps", 3, "--json")
        got = json.loads(out)["lr"] if code == 0 else []
        check(f"schedule: Muon's rate for matrices, {params}", len(got) == 3 and abs(got[0] - rate) < 1e-15 and abs(got[2] - rate / 2) < 1e-15,
              out + err)

    # DeepSpeed's Muon has no betas among its defaults, so that OneCycle leaves them alone
    ds = write("cycle.json", {"train_batch_size": 1, "optimizer": {"type": "Muon", "params": {"lr": 0.25}}, "scheduler": {
        "type": "OneCycle", "params": {"cycle_min_lr": 0.25, "cycle_max_lr": 0.5, "cycle_first_step_size": 2, "decay_step_size": 0}}})
    code, out, err = run("schedule", ds, "--steps", 4, "--json")
    check("schedule: OneCycle leaves Muon's betas alone", code == 0 and json.loads(out)["betas"] is None, out + err)
    ds = write("momentum.json", {"train_batch_size": 1, "optimizer": {"type": "AdamW", "params": {}}, "scheduler": {
        "type": "OneCycle", "params": {"cycle_min_lr": 0.25, "cycle_max_lr": 0.5, "cycle_max_mom": 1.0}}})
    code, out, err = run("check", ds)
    check("check: a beta of 1", code == 1 and "scheduler.params.cycle_max_mom: must be at least 0 and below 1" in out + err, out + err)


# --- zds-replay

GROUPS = [{"params": ["wte*", "h.1.bias"], "lr": 0.03125, "momentum": 0.75}, {"params": "*.bias", "weight_decay": 0.25, "momentum": 0}]
LR, MOMENTUM, STEPS = 0.125, 0.5, 6


def group_of(name):
    return 0 if name in ("wte.weight", "h.1.bias") else 1 if name.endswith(".bias") else 2


def descent(init, grads, rate):
    """torch's SGD: buf = momentum buf + (g + wd p); p -= lr buf; the mean over ranks. `rate(group, step)`."""
    p = {k: list(v) for k, v in init.items()}
    buf = {k: [0.0] * len(v) for k, v in init.items()}
    for step, ranks in enumerate(grads):
        for k in p:
            g = group_of(k)
            momentum, wd = ((0.75, 0.0), (0.0, 0.25), (MOMENTUM, 0.0))[g]
            for i in range(len(p[k])):
                d = sum(r[k][i] for r in ranks) / len(ranks) + wd * p[k][i]
                buf[k][i] = momentum * buf[k][i] + d
                p[k][i] -= rate(g, step) * buf[k][i]
    return p


def replay(name, world, extra, rate, observe=None, stage=1):
    rng = random.Random(5)
    draw = lambda k: list(array.array("f", [rng.gauss(0, 0.5) for _ in range(math.prod(SHAPES[k]))]))
    folder = os.path.join(ROOT, name)
    os.makedirs(f"{folder}/grads")
    init = {k: draw(k) for k in SHAPES}
    save(f"{folder}/init.safetensors", init)
    grads = []
    for step in range(STEPS):
        grads.append([{k: draw(k) for k in SHAPES} for _ in range(world)])
        for r in range(world):
            save(f"{folder}/grads/m{step:03d}.r{r}.safetensors", grads[-1][r])
    ds = write(f"{name}/ds.json", dict({"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0, "optimizer": {"type": "SGD", "params": {
        "lr": LR, "momentum": MOMENTUM}}, "zero_optimization": {"stage": stage}, "zds": {"param_groups": GROUPS}}, **extra))
    command = [f"{BIN}/zds-replay", "--config", ds, "--params", f"{folder}/init.safetensors", "--grads", f"{folder}/grads",
               "--micro-steps", str(STEPS), "--out", f"{folder}/out.safetensors"]
    if observe:  # each rank has a file of its own: rank 0's holds
        for r in range(world):
            write(f"{name}/metrics.{r}.json", observe(r))
        command = ["sh", "-c", f'exec "$@" --observe "{folder}/metrics.$RANK.json"', "sh", *command]
    if world > 1:
        command = [f"{BIN}/zds-run", "-n", str(world), "--bind", "none", *command]
    p = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if p.returncode:
        return check(name, False, p.stderr)
    got, want = load(f"{folder}/out.safetensors"), descent(init, grads, rate)
    worst = max(abs(a - b) for k in want for a, b in zip(got["param." + k], want[k]))
    check(f"replay: {name} (largest difference {worst:.2g})", worst < 2e-6)


def replays():
    base = lambda g, step: 0.03125 if g == 0 else LR
    for world in (1, 2):
        for stage in (0, 1, 2):
            replay(f"groups at stage {stage} on {world}", world, {}, base, stage=stage)
    warmup = {"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": [0.5, 0.25, 0.125], "warmup_num_steps": 4, "warmup_type": "linear"}}}
    # after k moves DeepSpeed's counter is k - 1; the rate at creation is the least
    replay("rates of a list", 2, warmup, lambda g, step: (0.5, 0.25, 0.125)[g] * min(1, max(0, step - 1) / 4))
    # transformers measures lr_end by the optimizer's own rate, whatever the first group has
    polynomial = {"scheduler": {"type": "polynomial", "params": {"num_warmup_steps": 0, "num_training_steps": STEPS, "lr_end": LR / 4}}}
    replay("a least rate", 1, polynomial, lambda g, step: base(g, 0) * (0.75 * (1 - step / STEPS) + 0.25))
    plateau = {"scheduler": {"type": "reduce_lr_on_plateau", "params": {"patience": 0, "factor": 0.5}}}
    # rank 0 tells 1, 2 (worse: half), nothing, 3 (worse: half); rank 1 something else
    replay("rank 0's metric", 2, plateau, lambda g, step: base(g, 0) * (1, 1, 0.5, 0.5, 0.25, 0.25)[step],
           observe=lambda r: [1, 2, None, 3] if r == 0 else [1, 0.5, None, 0.125])


def replay_refuses():
    folder = os.path.join(ROOT, "groups at stage 0 on 1")
    files = ("--config", f"{folder}/ds.json", "--params", f"{folder}/init.safetensors", "--grads", f"{folder}/grads", "--micro-steps", STEPS)
    out = os.path.join(ROOT, "refused.safetensors")
    code, _, err = run(*files, "--out", out, "--observe", write("one.json", [1]), program="zds-replay")
    check("replay: metrics for a schedule that follows none", code == 1 and "follows no metric" in err and not os.path.exists(out), err)
    ds = json.load(open(f"{folder}/ds.json"))
    ds["scheduler"] = {"type": "greedy", "params": {"min_lr": 0}}
    greedy = ("--config", write("greedy.json", ds), *files[2:])
    code, _, err = run(*greedy, "--out", out, "--observe", write("many.json", [1] * 7), program="zds-replay")
    check("replay: more metrics than steps", code == 1 and "7 metrics, but there were 6 steps" in err and not os.path.exists(out), err)
    for where in (ROOT, f"{ROOT}/nowhere/m.json"):
        code, _, err = run(*files, "--out", out, "--metrics", where, program="zds-replay")
        left = [n for n in os.listdir(ROOT) if "refused" in n or ".tmp" in n]
        check(f"replay: --metrics {os.path.basename(where)} fails before --out is written", code == 1 and where in err and not left, f"{err} {left}")
    for make in (os.mkfifo, lambda path: os.symlink("nowhere", path)):
        make(f"{ROOT}/strange")
        for option in ("--out", "--metrics"):
            args = {"--out": out, "--metrics": f"{ROOT}/refused.json", option: f"{ROOT}/strange"}
            code, _, err = run(*files, *(word for pair in args.items() for word in pair), program="zds-replay")
            check(f"replay: {option} is no regular file", code == 1 and "strange" in err and not os.path.isfile(f"{ROOT}/strange") and
                  not [n for n in os.listdir(ROOT) if "refused" in n or n.startswith("strange.")], f"{code} {err} {os.listdir(ROOT)}")
        os.unlink(f"{ROOT}/strange")
    os.symlink("linked.safetensors", f"{ROOT}/link")
    write("linked.safetensors", "old")
    code, _, err = run(*files, "--out", f"{ROOT}/link", program="zds-replay")
    check("replay: --out through a link", code == 0 and os.path.islink(f"{ROOT}/link") and load(f"{ROOT}/linked.safetensors"), err)
    ds["optimizer"]["params"]["momentum"] = 0
    code, _, err = run("--config", write("momentum.json", ds), *files[2:], "--out", out, program="zds-replay")
    check("replay: momentum of a group of an optimizer without", code == 1 and "h.1.bias" in err and "its group has the momentum 0.75" in err, err)
    ds["zds"]["param_groups"][0]["params"] = "wt.*"
    code, _, err = run("--config", write("nothing.json", ds), *files[2:], "--out", out, program="zds-replay")
    check("replay: a pattern that matches nothing", code == 1 and "nothing.json:1:" in err and "the nearest names are wte.weight" in err, err)


def replay_muon():
    """A group's own rate counts, whether or not it is the common one."""
    folder = os.path.join(ROOT, "groups at stage 0 on 1")
    files = ("--params", f"{folder}/init.safetensors", "--grads", f"{folder}/grads", "--micro-steps", STEPS)
    got = []
    for lr in (0.25, 0.125):
        ds = write("muon.json", {"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "Muon", "params": {"lr": lr, "muon_lr": 0.5}},
                                 "zds": {"param_groups": [{"params": "*", "lr": 0.25}]}})
        code, _, err = run("--config", ds, *files, "--out", f"{ROOT}/muon.safetensors", program="zds-replay")
        got.append(load(f"{ROOT}/muon.safetensors") if code == 0 else err)
    check("replay: a group's rate with Muon", isinstance(got[0], dict) and got[0] == got[1], str(got)[:300])


# --- zds-train

def train():
    config = write("config.json", dict(model_type="gpt2", vocab_size=256, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    text = write("text", "".join(chr(97 + i * 7 % 26) for i in range(3000)))

    def start(ds, *flags):
        out = tempfile.mkdtemp(dir=ROOT)
        command = ("--config_name", config, "--train_file", text, "--deepspeed", write("train.json", ds), "--output_dir", f"{out}/m",
                   "--max_steps", 2, *flags)
        return out, *run(*command, program="zds-train")
    ds = {"train_micro_batch_size_per_gpu": 1, "zds": {"param_groups": [{"params": "transformer.wpe.*", "lr": 0}]}}
    out, code, _, err = start(ds, "--weight_decay", 0.5, "--learning_rate", 0.25)
    lines = [line for line in err.splitlines() if line.startswith("group ")]
    # wpe with decay; then the Trainer's two: matrices and wte with decay, biases and norms without
    check("train: its groups are told", code == 0 and len(lines) == 3 and
          lines[0].startswith("group 0: 1 parameters of 256 elements  rate 0  ") and lines[0].endswith("weight decay 0.5") and
          lines[1].startswith("group 1: 5 parameters") and lines[1].endswith("weight decay 0.5") and
          lines[2].startswith("group 2: 10 parameters") and lines[2].endswith("weight decay 0"), err)
    for ds_scheduler, flags in (({}, ("--lr_scheduler_type", "reduce_lr_on_plateau")),
                                ({"scheduler": {"type": "greedy", "params": {}}}, ())):
        out, code, _, err = start({"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW", "params": {}}, **ds_scheduler}, *flags)
        check("train: a schedule that needs an evaluation", code == 1 and "does not evaluate" in err and not os.listdir(out), err)


with tempfile.TemporaryDirectory() as ROOT:
    config_check()
    schedule_follows()
    schedule_of_groups()
    replays()
    replay_refuses()
    replay_muon()
    train()
sys.exit(failures > 0)
