"""zds-bench train: its figures, and what is left when it is ended: neither processes nor files; programs that compute on
the host refuse a device.

usage: bench_train.py FOLDER     (of the programs)
"""
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

PROGRAMS = os.path.abspath(sys.argv[1])
failures = 0


def check(what, good, detail=""):
    global failures
    failures += not good
    print("ok  " if good else "FAIL", what, "" if good else detail, flush=True)


def command(config, steps):
    return [os.path.join(PROGRAMS, "zds-bench"), "train", "--config", config, "--layers", "1",
            "--heads", "2", "--width", "16", "--block-size", "16", "--ranks", "2", "--steps", str(steps),
            "--json"]


def trainers():
    """Processes that train in a folder of zds-bench train."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                line = file.read()
        except OSError:
            continue
        if b"zds-train" in line and b"/zds-bench-" in line:
            found.append(path)
    return found


with tempfile.TemporaryDirectory() as folder:
    config = os.path.join(folder, "ds.json")
    with open(config, "w") as file:
        file.write('{"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW"}}')
    out = subprocess.run(command(config, 2000), capture_output=True, text=True, timeout=60)
    figures = json.loads(out.stdout or "{}")
    check("figures", out.returncode == 0 and figures.get("tokens_per_second", 0) > 0
          and figures.get("first_step_ms", 0) > 0 and figures.get("peak_pss_mib", 0) > 1, (out.returncode, figures, out.stderr))
    before = set(glob.glob("/tmp/zds-bench-*"))
    process = subprocess.Popen(command(config, 9999), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    began = time.time()
    while not trainers() and time.time() - began < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    left = set(glob.glob("/tmp/zds-bench-*")) - before
    check("ended by a signal", process.returncode == 130 and not left and not trainers(),
          (process.returncode, err, left, trainers()))
    # zds-bench step writes gradients into memory of the host's alone.
    with open(config, "w") as file:
        file.write('{"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW"}, "zds": {"device": "test"}}')
    island = os.environ | {"ZDS_PLUGIN_PATH": os.path.join(os.path.dirname(PROGRAMS), "tests", "island")}
    step = [os.path.join(PROGRAMS, "zds-bench"), "step", "--config", config, "--params", "4096", "--tensors", "2", "--steps", "3"]
    out = subprocess.run(step, capture_output=True, text=True, timeout=60, env=island)
    check("zds-bench step on a device is refused", out.returncode == 1 and "computes in the host's memory" in out.stderr,
          (out.returncode, out.stderr[-500:]))
sys.exit(failures > 0)
