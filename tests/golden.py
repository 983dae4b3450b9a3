"""What the tests against golden runs share: running zds's programs, reading safetensors, comparing.

Golden runs were computed by DeepSpeed 0.19.8 and transformers 5.23 with torch 2.15 on a CPU; the
tests need neither. A test is a script given the folder of the programs, and -k REGEX to select
cases; it prints a line a failure and 'N passed, N failed' at the end.
"""
import argparse
import array
import json
import math
import os
import re
import signal
import struct
import subprocess
import tempfile

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")


def run(command, timeout):
    """(exit code, stdout, stderr); a run past `timeout` seconds is ended with all its processes."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True, text=True,
                               errors="replace")
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"no answer in {timeout} s: {' '.join(command)}") from None
    return process.returncode, out, err


def ranked(programs, world_size, command):
    """The command on `world_size` ranks."""
    if world_size == 1:
        return command
    return [os.path.join(programs, "zds-run"), "-n", str(world_size), *command]


def read_header(path):
    """({name: entry}, offset of the data) of a safetensors file."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def read_metadata(path):
    """__metadata__ of a safetensors file."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(size)).get("__metadata__", {})


def read_tensors(path):
    """{name: (shape, flat array of floats)} of a safetensors file that holds F32 only."""
    header, base = read_header(path)
    tensors = {}
    with open(path, "rb") as file:
        for name, entry in header.items():
            if entry["dtype"] != "F32":
                raise ValueError(f"{path}: {name} is {entry['dtype']}, expected F32")
            first, last = entry["data_offsets"]
            file.seek(base + first)
            values = array.array("f")
            values.frombytes(file.read(last - first))
            if len(values) != math.prod(entry["shape"]):
                raise ValueError(f"{path}: {name}: {len(values)} values in shape {entry['shape']}")
            tensors[name] = (entry["shape"], values)
    return tensors


def write_tensors(path, tensors):
    """Writes {name: (shape, floats)} as F32."""
    header, at = {}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(values)]}
        at += 4 * len(values)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(array.array("f", values).tobytes())


def gaps(expected, got, prefix):
    """Ascending absolute differences over all expected tensors whose name starts with `prefix`.

    A tensor that is missing or of another shape, and a value that is not finite, is infinitely far.
    """
    result = []
    for name, (shape, values) in expected.items():
        if not name.startswith(prefix):
            continue
        got_shape, got_values = got.get(name, (None, None))
        if got_shape != shape:
            result += [math.inf] * len(values)
        else:
            result += [abs(e - g) if math.isfinite(g) else math.inf
                       for e, g in zip(values, got_values)]
    return sorted(result)


def percentile99(ascending):
    return ascending[int(0.99 * len(ascending))]


def near(expected, got, tolerance):
    """False also for NaN, null and text."""
    return type(got) in (int, float) and abs(expected - got) <= tolerance


def run_cases(path, check):
    """The main program of a test: check(case, programs, folder) returns what is wrong, or None."""
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", type=os.path.abspath, help="the folder of zds's programs")
    parser.add_argument("-k", default="", metavar="REGEX", help="only cases whose id matches")
    arguments = parser.parse_args()
    with open(path) as file:
        cases = [case for case in json.load(file)["cases"] if re.search(arguments.k, case["id"])]
    failed = 0
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            config = os.path.join(folder, "ds_config.json")
            with open(config, "w") as file:
                json.dump(case["ds_config"], file)
            try:
                fault = check(case, arguments.programs, folder)
            except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
                fault = f"{type(error).__name__}: {error}"
        print(f"{'FAIL' if fault else 'ok  '} {case['id']}{': ' + fault if fault else ''}",
              flush=True)
        failed += bool(fault)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed or not cases else 0
