"""Running rivals and zds alike: the virtual environment, ranks as processes, peak memory, times."""
import json
import os
import random
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def environment():
    """The python of the rivals: $ZDS_RIVALS or bench/.venv, made on the first call (6 GB)."""
    folder = os.environ.get("ZDS_RIVALS", os.path.join(HERE, ".venv"))
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print(f"installing torch, DeepSpeed and transformers into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r",
                        os.path.join(HERE, "requirements.txt")], check=True)
    return python


def pss_bytes(pid):
    """Memory of a process, pages that several share counted in parts; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def children(pid):
    """Processes below `pid`, itself not included."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *children(child)]
    except OSError:
        pass
    return found


class Peak(threading.Thread):
    """Samples the memory of processes twice a second (a sample costs milliseconds of a core); `bytes`
    is the highest that one of them had."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.bytes, self.stopping = pids, 0, threading.Event()
        self.start()

    def run(self):
        while not self.stopping.wait(0.5):
            self.bytes = max([self.bytes, *map(pss_bytes, self.pids())])

    def stop(self):
        self.stopping.set()
        self.join()
        return self.bytes


def run_ranks(command, ranks, threads, timeout=1200):
    """The command on each rank as torch's launcher would start it: ([JSON lines of rank 0],
    time.time() before the start, peak bytes of a rank)."""
    python = command[0]
    env = dict(os.environ, DS_ACCELERATOR="cpu", MASTER_ADDR="127.0.0.1",
               MASTER_PORT=str(random.randrange(20000, 32000)), WORLD_SIZE=str(ranks),
               LOCAL_WORLD_SIZE=str(ranks), OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1",
               PATH=os.path.dirname(python) + ":" + os.environ["PATH"])
    start = time.time()
    processes = [subprocess.Popen(
        command, env=dict(env, RANK=str(rank), LOCAL_RANK=str(rank)), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE if rank == 0 else subprocess.DEVNULL) for rank in range(ranks)]
    peak = Peak(lambda: [process.pid for process in processes])
    try:
        out, err = processes[0].communicate(timeout=timeout)
        codes = [process.wait(timeout=60) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    used = peak.stop()
    if any(codes):
        raise RuntimeError(f"{' '.join(command)}: exit {codes}\n{err[-2000:]}")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")], start, used


def run_json(command, timeout=1200):
    """The JSON that a program prints."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=timeout)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {result.returncode}\n"
                           f"{result.stderr[-2000:]}")
    return json.loads(result.stdout)
