"""The engine in several processes: every stage at 1, 2 and 3 ranks, a rank killed in the middle of a step, a peer that never
comes, ranks that disagree, configs that fail. usage: engine.py FOLDER_OF_PROGRAMS"""
import json, os, signal, socket, subprocess, sys, tempfile, time

BIN = os.path.abspath(sys.argv[1])
failures = 0


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail else ""), flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def config(folder, name="ds.json", **keys):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        json.dump({"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}, **keys}, f)
    return path


def start(rank, world, port, command, timeout="20"):
    env = dict(os.environ, RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world),
               MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ZDS_TIMEOUT=timeout)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def bench(ds, params="100000", steps="4"):
    return [f"{BIN}/zds-bench", "step", "--config", ds, "--params", params, "--tensors", "5", "--steps", steps,
            "--threads", "1", "--json"]


def every_stage(folder):
    for stage in (0, 1, 2, 3):
        for bf16 in (False, True):
            ds = config(folder, zero_optimization={"stage": stage}, bf16={"enabled": bf16})
            for ranks in (1, 2, 3):
                p = subprocess.run([f"{BIN}/zds-run", "-n", str(ranks)] + bench(ds, "100003"), capture_output=True, text=True,
                                   timeout=120)
                good = p.returncode == 0
                bytes_ = json.loads(p.stdout)["bytes"] if good else 0
                want = 28 * 100003 / (ranks if stage else 1)
                check(f"stage {stage} bf16 {bf16} {ranks} ranks", good and abs(bytes_ - want) < 1, f"exit {p.returncode} {p.stderr[-300:]}")


def stopped_rank(folder):
    """It lives and does nothing: a warning, then an error."""
    ds = config(folder, zero_optimization={"stage": 2})
    port = free_port()
    ps = [start(r, 2, port, bench(ds, "1Mi", "1000000"), timeout="4") for r in range(2)]
    joined = lambda p: p.poll() is not None or "zds-shm" in open(f"/proc/{p.pid}/maps").read()
    while not all(joined(p) for p in ps):
        time.sleep(0.02)
    time.sleep(0.5)
    ps[1].send_signal(signal.SIGSTOP)
    try:
        err = ps[0].communicate(timeout=60)[1]
    finally:
        for p in ps:
            p.kill()
    check("a stopped rank: a warning", "rank(s) 1 silent for 2 s while rank 0 waits for" in err, err[-400:])
    check("a stopped rank: an error", ps[0].returncode == 1 and "silent for 4000 ms (ZDS_TIMEOUT, or options.timeout_ms)" in err, err[-400:])


def killed_rank(folder, zero):
    ds = config(folder, zero_optimization=zero)
    port = free_port()
    ps = [start(r, 2, port, bench(ds, "4Mi", "100000")) for r in range(2)]
    joined = lambda p: p.poll() is not None or "zds-shm" in open(f"/proc/{p.pid}/maps").read()
    while not all(joined(p) for p in ps):
        time.sleep(0.02)
    time.sleep(1)
    alive = [p.poll() is None for p in ps]
    ps[1].send_signal(signal.SIGKILL)
    begun = time.time()
    try:
        _, err = ps[0].communicate(timeout=25)
    except subprocess.TimeoutExpired:
        ps[0].kill()
        _, err = ps[0].communicate()
    took = time.time() - begun
    ps[1].wait()
    check("a killed rank is noticed", all(alive) and ps[0].returncode == 1 and "rank 1" in err and took < 10,
          f"exit {ps[0].returncode} after {took:.1f} s: {err.strip()[-200:]}")
    left = [n for n in os.listdir("/dev/shm") if "zds" in n]
    check("nothing is left in /dev/shm", not left, str(left))


def killed_over_files(folder):
    """Wherever it is in what it reads and writes: the next start removes what it left."""
    files = os.path.join(folder, "files")
    os.mkdir(files)
    nvme = {"device": "nvme", "nvme_path": files}
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, "offload_optimizer": nvme,
            "offload_param": {**nvme, "max_in_cpu": 0}}
    killed_rank(folder, zero)
    left = os.listdir(files)
    check("a rank that ends by itself leaves no files", len(left) <= 2, str(left))
    p = subprocess.run([f"{BIN}/zds-run", "-n", "2"] + bench(config(folder, zero_optimization=zero), "100003"), capture_output=True,
                       text=True, timeout=120)
    check("a restart works, and nothing is left", p.returncode == 0 and not os.listdir(files), f"{p.stderr[-300:]} {os.listdir(files)}")


def missing_peer(folder):
    ds = config(folder)
    begun = time.time()
    p = start(0, 2, free_port(), bench(ds), timeout="2")
    _, err = p.communicate(timeout=30)
    took = time.time() - begun
    check("a peer that never comes is named", p.returncode == 1 and "1 did not come" in err and took < 8,
          f"exit {p.returncode} after {took:.1f} s: {err.strip()[-200:]}")


def disagreement(folder):
    one, two = config(folder, "one.json", gradient_clipping=0.5), config(folder, "two.json", gradient_clipping=0.7)
    for name, commands, word in (("config", (bench(one), bench(two)), "ds_config"),
                                 ("model", (bench(one, "1000"), bench(one, "1001")), "model")):
        port = free_port()
        ps = [start(r, 2, port, c) for r, c in enumerate(commands)]
        errs = [p.communicate(timeout=60)[1] for p in ps]
        check(f"ranks that disagree on the {name}", all(p.returncode == 1 for p in ps) and any(word in e for e in errs),
              " | ".join(e.strip()[-160:] for e in errs))


def bad_configs(folder):
    cases = [({"zero_optimization": {"stage": 2, "overlap_com": True}}, "overlap_comm"),
             ({"zero_optimization": {"stage": 3, "pipeline_loading_checkpoint": True}}, "pipeline_loading_checkpoint"),
             ({"fp16": {"enabled": True, "initial_scale_power": 128}}, "initial_scale_power"),
             ({"fp16": {"enabled": True, "loss_scale": 1e39}}, "loss_scale"),
             ({"optimizer": {"type": "AdamX"}}, "AdamX"),
             ({"optimizer": {"type": "AdamW", "params": {"lr": -1}}}, "lr"),
             ({"optimizer": {"type": "AdamW", "params": {"learning_rate": 1}}}, "learning_rate"),
             ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 0}}}, "warmup_num_steps"),
             ({"no_such_key": 1}, "no_such_key")]
    for keys, word in cases:
        p = subprocess.run(bench(config(folder, **keys)), capture_output=True, text=True, timeout=60)
        check(f"config {json.dumps(keys)[:70]}", p.returncode == 1 and word in p.stderr, p.stderr.strip()[:200])
    p = subprocess.run(bench(os.path.join(folder, "absent.json")), capture_output=True, text=True, timeout=60)
    check("a config that is not there", p.returncode == 1 and "absent.json" in p.stderr, p.stderr.strip()[:200])


with tempfile.TemporaryDirectory() as folder:
    every_stage(folder)
    stopped_rank(folder)
    killed_rank(folder, {"stage": 2})
    killed_over_files(folder)
    missing_peer(folder)
    disagreement(folder)
    bad_configs(folder)
sys.exit(1 if failures else 0)
