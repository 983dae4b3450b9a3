"""A command under a memory limit of its own: limited.py MIB COMMAND ..., as root. The processes, page cache and shared pages
of the command count; what is swapped does too. Prints the peak. Exit 77 where no cgroup can be made."""
import os
import subprocess
import sys

V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


def put(path, value):
    with open(path, "w") as file:
        file.write(str(value))


def make(limit):
    """The group's folder, and the file that tells its peak."""
    one = os.path.isdir(V1)
    folder = os.path.join(V1 if one else V2, f"zds-limited-{os.getpid()}")
    try:
        os.mkdir(folder)
        put(os.path.join(folder, "memory.limit_in_bytes" if one else "memory.max"), limit)
    except OSError as error:
        print(f"skipped: no memory cgroup can be made: {error}", file=sys.stderr)
        sys.exit(77)
    swap = os.path.join(folder, "memory.memsw.limit_in_bytes" if one else "memory.swap.max")
    if os.path.exists(swap):
        put(swap, limit if one else 0)
    return folder, os.path.join(folder, "memory.max_usage_in_bytes" if one else "memory.peak")


limit = int(sys.argv[1]) << 20
folder, peak = make(limit)
try:
    done = subprocess.run(sys.argv[2:], preexec_fn=lambda: put(os.path.join(folder, "cgroup.procs"), os.getpid()))
    with open(peak) as file:
        print(f"limit {limit >> 20} MiB, peak {int(file.read()) >> 20} MiB, exit {done.returncode}", file=sys.stderr)
finally:
    os.rmdir(folder)
sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)
