"""The tier of files where its surroundings differ: memory's file system, and a system that refuses
io_uring, as containers do by seccomp, with either of the two errors."""
import ctypes
import errno
import os
import struct
import subprocess
import sys
import tempfile

PROGRAMS = os.path.abspath(sys.argv[1])
PLUGIN = os.path.join(os.path.dirname(PROGRAMS), "lib", "zds", "plugins", "offload_nvme.so")
IO_URING_SETUP = 425
failures = 0


def expect(condition, what):
    global failures
    print(("ok    " if condition else "FAIL  ") + what, flush=True)
    failures += not condition


def refuse_io_uring(error):
    """For a child before it begins: io_uring_setup returns the error."""
    def instruction(code, jump_true, jump_false, value):
        return struct.pack("HBBI", code, jump_true, jump_false, value)

    program = (instruction(0x20, 0, 0, 0) +                      # load the number of the call
               instruction(0x15, 0, 1, IO_URING_SETUP) +         # is it?
               instruction(0x06, 0, 0, 0x00050000 | error) +     # return the error
               instruction(0x06, 0, 0, 0x7fff0000))              # allow
    memory = ctypes.create_string_buffer(program)
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8,
                                                      ctypes.addressof(memory)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privs, set_seccomp, mode_filter = 38, 22, 2
    kept = memory, filter_

    def apply():
        if libc.prctl(no_new_privs, 1, 0, 0, 0) or libc.prctl(set_seccomp, mode_filter, kept[1]):
            os._exit(99)
        ctypes.set_errno(0)
        if libc.syscall(IO_URING_SETUP, 1, None) != -1 or ctypes.get_errno() != error:
            os._exit(98)
    return apply


def check(where, what, before=None):
    with tempfile.TemporaryDirectory(dir=where) as folder:
        result = subprocess.run([os.path.join(PROGRAMS, "zds-plugins"), "--check", PLUGIN],
                                env=dict(os.environ, TMPDIR=folder), stdin=subprocess.DEVNULL,
                                text=True, capture_output=True, timeout=300, preexec_fn=before)
        lines = result.stdout.splitlines()
        for name in ("open and close the tier", "blocks keep what is written",
                     "copies wait for their events", "several copies in flight", "no leaks"):
            expect(f"ok       nvme: {name}" in lines, f"{what}: {name}")
        expect(result.returncode == 0 and ", 0 failed," in result.stdout,
               f"{what}: exit {result.returncode} {result.stderr[-300:]}")
        expect(not os.listdir(folder), f"{what}: nothing is left")


if not os.path.exists(PLUGIN):
    print(f"skipped: {PLUGIN} is not built")
    sys.exit(77)
check("/dev/shm", "in memory's file system")
for number in errno.EPERM, errno.ENOSYS:
    name = errno.errorcode[number]
    check(None, f"io_uring refused by {name}", refuse_io_uring(number))
    check("/dev/shm", f"io_uring refused by {name}, in memory's file system",
          refuse_io_uring(number))
sys.exit(1 if failures else 0)
