"""What the tests of an install share: an install of the build under test in a temporary prefix."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(command, **options):
    """stdout of a command that must succeed; else the test fails with all that it said."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=300, **options)
    if result.returncode:
        sys.exit(f"FAIL: {' '.join(map(str, command))}: exit {result.returncode}\n"
                 f"{result.stdout}{result.stderr}")
    return result.stdout


def expect(condition, what):
    """One line a comparison."""
    print(("ok    " if condition else "FAIL  ") + what)
    if not condition:
        sys.exit(1)


def cache_entry(build, name):
    with open(os.path.join(build, "CMakeCache.txt")) as cache:
        for line in cache:
            if line.startswith(name + ":"):
                return line.split("=", 1)[1].strip()
    return ""


@contextlib.contextmanager
def prefix():
    """(temporary folder, prefix in it); skips under a sanitizer, which programs built outside the
    tree would have to link too."""
    build = os.path.dirname(os.path.abspath(sys.argv[1]))
    if cache_entry(build, "ZDS_SANITIZE") or cache_entry(build, "ZDS_FUZZ") == "ON":
        print("skipped: the build under test is instrumented")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        run(["cmake", "--install", build, "--prefix", os.path.join(folder, "first")])
        # An install must work wherever it is moved.
        os.rename(os.path.join(folder, "first"), os.path.join(folder, "moved"))
        yield folder, os.path.join(folder, "moved")


def as_cpp20():
    """Commands that compile as C++20 and take no warning, of the compilers that are there."""
    there = [name for name in ("g++", "clang++") if shutil.which(name)]
    expect(there, "a C++ compiler is there")
    return [[name, "-x", "c++", "-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror"] for name in there]


def library_folder(root):
    for folder, _, files in os.walk(root):
        if "libzds.so" in files:
            return folder
    sys.exit(f"FAIL: no libzds.so below {root}")
