"""zds-run: environment, binding, exit codes, tags, and that nothing it started outlives it.

usage: run.py FOLDER     (of the programs)
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

RUN = os.path.join(sys.argv[1], "zds-run")
OWN = f".{os.getpid()}"  # of a sleep's length, by which this test's processes are known
failures = 0


def expect(what, good, shown=""):
    global failures
    failures += not good
    print("ok  " if good else "FAIL", what, "" if good else shown, flush=True)


def run(*arguments, **keywords):
    return subprocess.run([RUN, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, **keywords)


def alive(marker):
    """Processes whose command line holds the marker (a sleep of an odd length)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                if marker in file.read().split("\0"):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def gone(marker, seconds=3):
    end = time.time() + seconds
    while alive(marker) and time.time() < end:
        time.sleep(0.02)
    return not alive(marker)


def wait_for(marker, count):
    end = time.time() + 10
    while len(alive(marker)) < count and time.time() < end:
        time.sleep(0.02)
    return len(alive(marker)) >= count


def environment():
    out = run("-n", "3", "sh", "-c",
              "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT")
    rows = sorted(line.split() for line in out.stdout.splitlines())
    expect("exit 0", out.returncode == 0, out.stderr)
    expect("each rank's variables", [row[:5] for row in rows] ==
           [[str(r), "3", str(r), "3", "127.0.0.1"] for r in range(3)], rows)
    expect("one port for all", len({row[5] for row in rows}) == 1 and 0 < int(rows[0][5]) < 65536,
           rows)
    out = run("sh", "-c", "echo $WORLD_SIZE")
    expect("one rank a core", out.stdout.split() == [str(len(os.sched_getaffinity(0)))] *
           len(os.sched_getaffinity(0)), out.stdout)


def binding():
    show = [sys.executable, "-c",
            "import os; os.write(1, b'%a\\n' % sorted(os.sched_getaffinity(0)))"]
    mine = sorted(os.sched_getaffinity(0))
    for mode in ([], ["--bind", "core"]):
        rows = run("-n", str(len(mine)), *mode, *show).stdout.splitlines()
        cores = sorted(core for row in rows for core in json.loads(row))
        expect(f"{mode or 'default'}: every processor, none twice", cores == mine, rows)
    for options in (["-n", "2", "--bind", "none"], ["-n", str(len(mine) + 1)]):
        rows = run(*options, *show).stdout.splitlines()
        expect(f"{options}: unbound", all(json.loads(row) == mine for row in rows), rows)
    rows = run("-n", "2", "--bind", "numa", *show).stdout.splitlines()
    expect("numa: inside this process's processors",
           all(json.loads(row) and set(json.loads(row)) <= set(mine) for row in rows), rows)


def output():
    out = run("-n", "2", "--tag-output", "sh", "-c",
              "echo one $RANK; echo two $RANK >&2; printf end")
    expect("tagged lines, the unended one too", sorted(out.stdout.splitlines()) ==
           ["[0] end", "[0] one 0", "[1] end", "[1] one 1"], out.stdout)
    expect("stderr stays stderr", sorted(out.stderr.splitlines()) == ["[0] two 0", "[1] two 1"],
           out.stderr)
    long = run("-n", "1", "--tag-output", sys.executable, "-c", "print('x' * 100000)")
    expect("a long line loses nothing", long.stdout.count("x") == 100000)
    given = subprocess.run([RUN, "-n", "2", "sh", "-c", "cat"], input="to rank 0\n",
                           capture_output=True, text=True, timeout=60)
    expect("input goes to rank 0", given.stdout == "to rank 0\n", given.stdout)


def failures_of_ranks():
    start = time.time()
    out = run("-n", "3", "sh", "-c", "test $RANK = 1 && exit 7; exec sleep 7301" + OWN)
    expect("the code of the rank that failed", out.returncode == 7, out.returncode)
    expect("which and why", "rank 1 exited with code 7" in out.stderr, out.stderr)
    expect("at once, and the others are gone", time.time() - start < 3 and gone("7301" + OWN))
    out = run("-n", "2", "sh", "-c", f"test $RANK = 1 && kill -9 $$; sleep 7302{OWN} & wait")
    expect("128 + signal", out.returncode == 137, out.returncode)
    expect("the signal by name", "rank 1 was killed by signal 9" in out.stderr, out.stderr)
    expect("what a rank started is gone too", gone("7302" + OWN))
    out = run("-n", "2", "sh", "-c",
              f"test $RANK = 0 && exit 3; trap '' TERM; sleep 7303{OWN}; sleep 7303{OWN}")
    expect("one that ignores SIGTERM is killed", out.returncode == 3 and gone("7303" + OWN), out)


def signals():
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        process = subprocess.Popen([RUN, "-n", "2", "sleep", "7304" + OWN], stderr=subprocess.PIPE,
                                   text=True)
        expect("ranks run", wait_for("7304" + OWN, 3))
        process.send_signal(number)
        err = process.communicate(timeout=20)[1]
        expect(f"signal {number}: exit {code}", process.returncode == code, process.returncode)
        expect("it is said, and all are gone",
               "ending 2 rank(s)" in err and gone("7304" + OWN), err)
    process = subprocess.Popen([RUN, "-n", "2", "sleep", "7305" + OWN])
    expect("ranks run", wait_for("7305" + OWN, 3))
    process.kill()
    process.wait()
    expect("zds-run killed by SIGKILL takes its ranks with it", gone("7305" + OWN))


def usage():
    for arguments in ([], ["-n", "0", "true"], ["-n", "x", "true"], ["--bind", "moon", "true"],
                      ["--launcher", "ssh", "true"], ["--nothing", "true"], ["-n", "2"]):
        out = run(*arguments)
        expect(f"{arguments}: exit 2", out.returncode == 2 and out.stderr, out)
    out = run("-n", "2", "no-such-program")
    expect("no such program: 127 and its name",
           out.returncode == 127 and "no-such-program" in out.stderr, out)
    out = run("-n", "2", "/etc/passwd")
    expect("not executable: 126", out.returncode == 126 and "/etc/passwd" in out.stderr, out)
    out = run("echo", "-n", "--bind")
    expect("options end at PROGRAM", "--bind" in out.stdout, out)
    out = run("-n", "1", "zds-run", "--version", env={**os.environ, "PATH": "/usr/bin:/bin"})
    expect("programs beside zds-run are found", out.stdout.startswith("zds-run "), out)
    empty = run("--launcher", "srun", "true", env={"PATH": "/nowhere"})
    expect("a launcher that is missing", empty.returncode == 127 and "srun" in empty.stderr, empty)


def launchers(folder):
    """A program in mpirun's place shows what it is given."""
    for name in ("mpirun", "srun"):
        path = os.path.join(folder, name)
        with open(path, "w") as file:
            file.write("#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'mpirun (Open MPI) 4'; "
                       "else printf '%s ' \"$@\"; fi\n")
        os.chmod(path, 0o755)
    env = {**os.environ, "PATH": folder + ":" + os.environ["PATH"]}
    options = ["-n", "4", "--bind", "core", "--tag-output", "prog", "-n", "9"]
    for name, wanted in (("mpirun", "-n 4 --bind-to core --tag-output prog -n 9"),
                         ("srun", "-n 4 --cpu-bind=cores --label prog -n 9")):
        out = run("--launcher", name, *options, env=env)
        expect(name, out.stdout.strip() == wanted, out.stdout)


def main():
    environment()
    binding()
    output()
    failures_of_ranks()
    signals()
    usage()
    with tempfile.TemporaryDirectory() as folder:
        launchers(folder)
    sys.exit(failures != 0)


main()
