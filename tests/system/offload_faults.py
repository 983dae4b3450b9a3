"""Training with masters, states and parameters in files, where something ends it or its files: a rank
that is killed at any moment or in the middle of a read or a write, a disk that fails, is full, does half of
what it is asked, or flips a bit. The others end with an error that names the rank, nobody hangs, nothing is
left, and the same run afterwards trains what it would have.

usage: offload_faults.py FOLDER [SEED]     (of the programs)
"""
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

PROGRAMS = os.path.abspath(sys.argv[1])
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
BUILD = os.path.dirname(PROGRAMS)
LIBRARY = os.path.join(BUILD, "tests", "preload", "io_fault.so")
MODEST = os.path.join(BUILD, "tests", "plugins", "modest_comm.so") + ":modest"
MODEL = {"model_type": "gpt2", "vocab_size": 256, "n_positions": 16, "n_embd": 48, "n_layer": 3,
         "n_head": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
SOON = 20  # seconds within which a run must have ended
failures = 0


def expect(good, what, seen=""):
    global failures
    print(f"{'ok  ' if good else 'FAIL'} {what}{'' if good else ': ' + str(seen)[-900:]}", flush=True)
    failures += not good


def shared():
    return set(os.listdir("/dev/shm"))


class Job:
    """One config in a folder of its own, whose files are in a folder below."""

    def __init__(self, folder, name, ranks, zero, zds):
        self.folder, self.ranks = os.path.join(folder, name), ranks
        self.files, self.name = os.path.join(self.folder, "files"), name
        os.makedirs(self.files, exist_ok=True)
        for key, more in (("offload_optimizer", {}), ("offload_param", {"max_in_cpu": 0})):
            if zero.get(key) == "nvme":
                zero = zero | {key: {"device": "nvme", "nvme_path": self.files, **more}}
        self.config = os.path.join(self.folder, "ds.json")
        with open(self.config, "w") as file:
            json.dump({"train_micro_batch_size_per_gpu": 2, "optimizer": {"type": "AdamW"},
                       "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 100,
                                             **zero}, "zds": zds}, file)
        with open(os.path.join(self.folder, "model.json"), "w") as file:
            json.dump(MODEL, file)
        with open(os.path.join(self.folder, "text.txt"), "w") as file:
            file.write("".join(f"{i * i} reads of {i} ranks; " for i in range(400)))

    def command(self, steps):
        train = [os.path.join(PROGRAMS, "zds-train"), "--config_name", os.path.join(self.folder, "model.json"),
                 "--train_file", os.path.join(self.folder, "text.txt"), "--deepspeed", self.config,
                 "--output_dir", os.path.join(self.folder, "out"), "--overwrite_output_dir", "--max_steps",
                 str(steps), "--data_order", "sequential", "--logging_steps", "1", "--trust_plugins"]
        return golden.ranked(PROGRAMS, self.ranks, train)

    def model(self):
        with open(os.path.join(self.folder, "out", "model.safetensors"), "rb") as file:
            return file.read()

    def run(self, steps=3, **environment):
        """(code, stderr, seconds)"""
        start = time.monotonic()
        os.environ.update(environment)
        try:
            code, _, err = golden.run(self.command(steps), timeout=90)
        finally:
            for name in environment:
                del os.environ[name]
        return code, err, time.monotonic() - start

    def again(self, what, model):
        """A run after one that failed trains as if nothing had been, and leaves nothing."""
        code, err, _ = self.run()
        expect(code == 0 and self.model() == model and not os.listdir(self.files),
               f"{what}: the next run is what it should be", (code, err, os.listdir(self.files)))

    def kill_some(self, chance):
        """Kills one rank at any moment after the first step: (rank, code, stderr, seconds after it)."""
        metrics = os.path.join(self.folder, "out", "metrics.jsonl")
        if os.path.exists(metrics):
            os.remove(metrics)
        process = subprocess.Popen(self.command(100000), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (os.path.exists(metrics) and os.path.getsize(metrics)):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.3)
        rank = chance.randrange(self.ranks)
        for pid in children(process.pid):
            if f"RANK={rank}".encode() in environment(pid):
                os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        err = process.communicate(timeout=90)[1]
        return rank, process.returncode, err, time.monotonic() - start


def environment(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:  # it has ended by itself, which is told by how the run ends
        return []


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return list(map(int, file.read().split()))


def kills(folder):
    """In gathers and reductions between ranks that share no pages, and over files."""
    chance = random.Random(SEED)
    both = {"offload_optimizer": "nvme", "offload_param": "nvme"}
    small = {"stage3_max_live_parameters": 20000}
    for name, ranks, zero, zds in (("gathers", 2, small, {"comm": MODEST}),
                                   ("gathers of three", 3, small, {"comm": MODEST}),
                                   ("files", 2, both, {}), ("files of three", 3, both | small, {})):
        job = Job(folder, name.replace(" ", "-"), ranks, zero, zds)
        before = shared()
        code, err, _ = job.run()
        if not code:
            model = job.model()
        expect(code == 0, f"{name}: undisturbed", err)
        for _ in range(3):
            rank, code, err, seconds = job.kill_some(chance)
            expect(code == 128 + signal.SIGKILL and f"rank {rank}" in err and seconds < SOON,
                   f"{name}: rank {rank} of {ranks} is killed, and all end", (code, seconds, err))
        job.again(f"{name}, killed", model)
        expect(shared() <= before, f"{name}: nothing is left in shared memory", shared() - before)


def calls(folder):
    job = Job(folder, "calls", 2, {"offload_optimizer": "nvme", "offload_param": "nvme"}, {})
    code, err, _ = job.run(LD_PRELOAD=LIBRARY, ZDS_TEST_IO=f"9 pread 1 5 {job.files}")
    expect(code == 0, "without io_uring", err)
    model, before = job.model(), shared()
    for call, how in (("pread", "kill"), ("pwrite", "kill"), ("pread", errno.EIO), ("pwrite", errno.EIO),
                      ("pwrite", errno.ENOSPC), ("pread", "short"), ("pwrite", "short")):
        for n in (2, 5, 17) if how == "short" else (2, 9, 15):
            what = f"{call} {n} of rank 1: {errno.errorcode.get(how, how)}"
            code, err, seconds = job.run(LD_PRELOAD=LIBRARY, ZDS_TEST_IO=f"1 {call} {n} {how} {job.files}")
            if how == "short":
                expect(code == 0 and job.model() == model, f"{what}: the right bits", (code, err))
            elif how == "kill":
                expect(code == 128 + signal.SIGKILL and "rank 1" in err and seconds < SOON, what,
                       (code, seconds, err))
            else:
                expect(code == 1 and re.search(r"rank 1\b.*" + re.escape(job.files), err) and
                       os.strerror(how) in err and seconds < SOON, what, (code, seconds, err))
        if how == "kill":
            job.again(what, model)
    expect(shared() <= before and not os.listdir(job.files), "nothing is left", os.listdir(job.files))
    flips(Job(folder, "flips", 2, {"offload_optimizer": "nvme"}, {}))


def flips(job):
    """Of a record, which has a checksum, told before it is trained with."""
    for n in (3, 8):
        code, err, seconds = job.run(LD_PRELOAD=LIBRARY, ZDS_TEST_IO=f"1 pread {n} flip {job.files}")
        expect(code == 1 and "rank 1" in err and "gives back other bytes of parameter" in err and
               seconds < SOON, f"a flipped bit in read {n}", (code, seconds, err))


def full(folder):
    """A file system with room for less than there is to be kept."""
    job = Job(folder, "full", 2, {"offload_optimizer": "nvme", "offload_param": "nvme"}, {})
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", job.files],
                                      capture_output=True).returncode:
        print("skip  a full file system: it cannot be mounted here")
        return
    try:
        code, err, seconds = job.run()
        expect(code == 1 and re.search(r"rank \d", err) and job.files in err and
               os.strerror(errno.ENOSPC) in err and seconds < SOON, "a full file system", (code, err))
        expect(not os.listdir(job.files), "and no file is left there", os.listdir(job.files))
    finally:
        subprocess.run(["umount", job.files], check=True)


if not os.path.exists(os.path.join(BUILD, "lib", "zds", "plugins", "offload_nvme.so")):
    print("skipped: offload nvme is not built")
    sys.exit(77)
print(f"seed {SEED}")
with tempfile.TemporaryDirectory() as folder:
    kills(folder)
    linked = subprocess.run(["ldd", os.path.join(PROGRAMS, "zds-train")], capture_output=True, text=True).stdout
    if re.search("lib[at]san", linked):
        print("skip  calls that fail: a sanitizer has to be loaded first")
    else:
        calls(folder)
    full(folder)
sys.exit(failures != 0)
