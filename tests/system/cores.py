"""Which processors the threads of ranks get, by what a program says in its log: ranks that their
launcher bound, ranks that it did not, a launcher that is bound itself, and an OpenMP runtime that
has bound the first thread.

usage: cores.py FOLDER     (of the programs)
"""
import json
import os
import re
import subprocess
import sys
import tempfile

BIN = sys.argv[1]
LINE = re.compile(r"zds: rank (\d+): threads: (\w+): (\d+) threads? on processors ([\d,-]+) "
                  r"\((.*?)\), (.*)")
failures = 0


def expect(what, good, shown=""):
    global failures
    failures += not good
    print("ok  " if good else "FAIL", what, "" if good else shown, flush=True)


def processors(text):
    found = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found


class Rank:
    def __init__(self, match):
        self.rank, self.level, self.threads = int(match[1]), match[2], int(match[3])
        self.processors, self.why, self.binding = processors(match[4]), match[5], match[6]

    def __repr__(self):
        return f"{self.level}: {self.threads} threads on {sorted(self.processors)} ({self.why}), {self.binding}"


def ranks(config, *before, threads=0, affinity=None, **more):
    """What each rank says when a bench makes an engine."""
    step = [os.path.join(BIN, "zds-bench"), "step", "--config", config, "--params", "4096",
            "--tensors", "1", "--steps", "3"]
    if threads:
        step += ["--threads", str(threads)]
    if before and before[-1] == "-c":
        step = [" ".join(step) + "; exit $?"]
    ran = subprocess.run([*before, *step], capture_output=True, text=True, timeout=120,
                         env={**os.environ, "ZDS_LOG": "debug", **more},
                         preexec_fn=affinity and (lambda: os.sched_setaffinity(0, affinity)))
    said = sorted(map(Rank, filter(None, map(LINE.search, ran.stderr.splitlines()))),
                  key=lambda r: r.rank)
    if ran.returncode or not said:
        sys.exit(f"FAIL {before} {more}: exit {ran.returncode}\n{ran.stdout}{ran.stderr}")
    return said


def alone(config, allowed):
    rank, = ranks(config)
    expect("a rank that is alone has all processors", rank.processors == allowed and
           rank.why == "for the only rank here", rank)
    if len(allowed) == os.sysconf("SC_NPROCESSORS_ONLN") == rank.threads:
        expect("and says so to who asks", rank.level == "debug", rank)
    one, = ranks(config, affinity={min(allowed)})
    expect("a process with one processor of several is told unasked", one.level == "info" and
           one.threads == 1 and "may use 1 of the machine's" in one.binding, one)
    few = ranks(config, threads=len(allowed) + 1)[0]
    expect("what nobody would expect is said unasked", few.level == "info", few)
    expect("more threads than processors are not bound, and it is said", few.threads ==
           len(allowed) + 1 and few.binding.startswith("not bound to these, which are fewer"), few)
    return rank.threads


def openmp(config, threads):
    library = "libgomp.so.1"
    maps = subprocess.run([sys.executable, "-c", "print(open('/proc/self/maps').read())"],
                          capture_output=True, text=True,
                          env={**os.environ, "LD_PRELOAD": library}).stdout
    linked = subprocess.run(["ldd", os.path.join(BIN, "zds-bench")], capture_output=True,
                            text=True).stdout
    if "libgomp" not in maps or re.search("lib[at]san", linked):
        print("skip  an OpenMP runtime: there is none to load first")
        return
    rank, = ranks(config, LD_PRELOAD=library, OMP_PROC_BIND="true")
    expect("a first thread that OpenMP has bound leaves the others", rank.threads == threads and
           rank.level == "info" and "the calling thread alone is bound to" in rank.binding, rank)


def several(config, allowed):
    run = [os.path.join(BIN, "zds-run"), "-n", "2", "--bind"]
    first, second = ranks(config, *run, "none")
    expect("unbound ranks have a share each", all(
        r.level == "info" and r.why.startswith(f"the share of local rank {r.rank} of 2 in") for r in (first, second)) and
        not first.processors & second.processors and first.threads == second.threads,
        (first, second))
    for what, command in (("bound ranks", run + ["core"]),
                          ("bound ranks behind a shell", run + ["core", "sh", "-c"])):
        first, second = ranks(config, *command)
        expect(f"{what} have what they were bound to", not first.processors & second.processors and
               all(r.why == "to which the launcher bound this rank" and r.level == "debug" for r in (first, second)),
               (first, second))
    half = set(sorted(allowed)[:(len(allowed) + 1) // 2])
    said = ranks(config, *run, "none", affinity=half)
    expect("a launcher that is bound itself has bound no rank", all(
        r.processors <= half and "launcher" not in r.why for r in said), said)


def main():
    allowed = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "ds_config.json")
        with open(config, "w") as file:
            json.dump({"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW"}}, file)
        if len(allowed) < 2:
            print("skip  this machine has one processor")
            sys.exit(77)
        threads = alone(config, allowed)
        if threads > 1:
            openmp(config, threads)
            several(config, allowed)
    sys.exit(failures != 0)


main()
