"""comm shm under zds-run, as programs use it: results of zds-bench comm, ranks killed with SIGKILL
in the middle of operations, and nothing left behind.

usage: comm.py FOLDER     (of the programs)
"""
import json
import os
import signal
import subprocess
import sys
import time

RUN, BENCH = (os.path.join(sys.argv[1], name) for name in ("zds-run", "zds-bench"))
failures = 0


def expect(what, good, shown=""):
    global failures
    failures += not good
    print("ok  " if good else "FAIL", what, "" if good else shown, flush=True)


PORT = 20000 + os.getpid() % 30000  # and the few after it: other jobs may run beside this one


def left_behind():
    """Names in /dev/shm (no job ever makes one), and the sockets of this test's own jobs."""
    ours = tuple(f"-{PORT + i}" for i in range(10))
    with open("/proc/net/unix") as file:
        sockets = [name for name in (line.split()[-1] for line in file)
                   if "@zds-" in name and name.endswith(ours)]
    return [name for name in os.listdir("/dev/shm") if "zds" in name], sockets


def children(pid):
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                if int(file.read().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry))
        except OSError:
            pass
    return sorted(found)


def operations():
    for op in ("barrier", "all_reduce", "reduce", "reduce_scatter", "all_gather", "broadcast",
               "all_to_all"):
        for ranks in (1, 2, 3, 4):
            out = subprocess.run(
                [RUN, "-n", str(ranks), BENCH, "comm", "--op", op, "--bytes", "1Mi", "--dtype",
                 "f32", "--repeats", "3", "--json"], capture_output=True, text=True, timeout=120)
            good = out.returncode == 0
            row = json.loads(out.stdout) if good else {}
            expect(f"{op} on {ranks} ranks", good and row["ranks"] == ranks and row["ms"] > 0 and
                   row["bytes"] == 1 << 20, out)


def start_ranks(count, port):
    """Without zds-run, so that the survivors' own words are heard."""
    command = [BENCH, "comm", "--op", "all_reduce", "--bytes", "16Mi", "--repeats", "100000"]
    env = {**os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [subprocess.Popen(command, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)},
                             stderr=subprocess.PIPE, text=True) for r in range(count)]


def all_joined(pids):
    """Waits until every rank has the shared memory: one that dies before can only be missed, not noticed."""
    end = time.time() + 60
    while time.time() < end:
        try:
            if all("zds-shm" in open(f"/proc/{pid}/maps").read() for pid in pids):
                break
        except OSError:
            pass
        time.sleep(0.02)
    time.sleep(0.5)


def killed():
    for victim in (0, 1, 2):
        ranks = start_ranks(3, PORT + victim)
        all_joined([process.pid for process in ranks])
        ranks[victim].send_signal(signal.SIGKILL)
        start = time.time()
        for r, process in enumerate(ranks):
            err = process.communicate(timeout=30)[1]
            if r != victim:
                expect(f"rank {victim} killed: rank {r} says so", process.returncode == 1 and
                       f"rank {victim} (pid {ranks[victim].pid}) died" in err, err)
        expect("long before the timeout", time.time() - start < 20, time.time() - start)
    expect("nothing in /dev/shm, no socket", left_behind() == ([], []), left_behind())


def killed_under_run():
    process = subprocess.Popen([RUN, "-n", "2", BENCH, "comm", "--repeats", "100000"],
                               stderr=subprocess.PIPE, text=True)
    end = time.time() + 10
    while len(children(process.pid)) < 2 and time.time() < end:
        time.sleep(0.05)
    ranks = children(process.pid)
    all_joined(ranks)
    os.kill(ranks[1], signal.SIGKILL)
    err = process.communicate(timeout=30)[1]
    expect("zds-run names the rank and the signal",
           process.returncode == 137 and "rank 1 was killed by signal 9" in err, err)
    expect("no rank is left", not any(os.path.exists(f"/proc/{pid}") for pid in ranks), ranks)


def never_comes():
    env = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(PORT + 9), "ZDS_TIMEOUT": "1", "RANK": "0",
           "LOCAL_RANK": "0"}
    start = time.time()
    out = subprocess.run([BENCH, "comm"], env=env, capture_output=True, text=True, timeout=60)
    expect("a rank that never comes is named", out.returncode == 1 and
           "rank(s) 1 did not come" in out.stderr and time.time() - start < 30, out)


def nobody_says_who_is_here():
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOCAL_")}
    out = subprocess.run([BENCH, "comm"], env={**env, "RANK": "0", "WORLD_SIZE": "2"},
                         capture_output=True, text=True, timeout=60)
    expect("ranks are not taken for one node's unsaid", out.returncode == 1 and
           "how many ranks share this node" in out.stderr and "zds-run" in out.stderr, out)


def main():
    operations()
    killed()
    killed_under_run()
    never_comes()
    nobody_says_who_is_here()
    expect("nothing left behind", left_behind() == ([], []), left_behind())
    sys.exit(failures != 0)


main()
