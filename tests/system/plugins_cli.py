"""zds-plugins as a user sees it: --list, --info, --check, exit codes, text and JSON."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

PROGRAMS = os.path.abspath(sys.argv[1])
SAMPLES = os.path.join(os.path.dirname(PROGRAMS), "tests", "plugins")
failures = 0


def expect(condition, what):
    global failures
    print(("ok    " if condition else "FAIL  ") + what)
    failures += not condition


def plugins(*arguments, path=None, timeout="10"):
    """(exit code, stdout, stderr) of zds-plugins with `path` as ZDS_PLUGIN_PATH."""
    environment = dict(os.environ, ZDS_PLUGIN_TIMEOUT=timeout)
    environment.pop("ZDS_PLUGIN_PATH", None)
    if path:
        environment["ZDS_PLUGIN_PATH"] = path
    result = subprocess.run([os.path.join(PROGRAMS, "zds-plugins"), *arguments], env=environment,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, errors="replace", timeout=120)
    return result.returncode, result.stdout, result.stderr


def put(folder, *names):
    """Copies samples, so that neither they nor their folder can be written by others."""
    os.chmod(folder, 0o755)
    for name in names:
        target = os.path.join(folder, name + ".so")
        shutil.copyfile(os.path.join(SAMPLES, name + ".so"), target)
        os.chmod(target, 0o755)


def entries(folder, *arguments):
    code, out, err = plugins("--list", "--json", *arguments, path=folder, timeout="2")
    expect(code == 0, f"--list exits with 0, not {code} {err}")
    return json.loads(out)


def check_usage():
    for arguments in [], ["--list", "--info", "x"], ["--bogus"], ["--list", "--kind", "bogus"], \
            ["--kind", "optim"], ["--info"], ["--list", "word"]:
        code, out, err = plugins(*arguments)
        expect(code == 2 and not out and "zds-plugins: " in err,
               f"{arguments}: exit {code}, {err.strip()}")
    code, out, _ = plugins("--help")
    expect(code == 0 and "--info NAME" in out, "--help")
    code, out, _ = plugins("--version")
    expect(code == 0 and out.startswith("zds-plugins "), "--version")


def check_install():
    """Without any path: what this build made."""
    installed = os.path.join(os.path.dirname(PROGRAMS), "lib", "zds", "plugins")
    listed = entries(None)
    files = {e["file"] for e in listed}
    wanted = {os.path.join(installed, f) for f in os.listdir(installed)
              if f.endswith((".so", ".absent"))}
    expect(files == wanted, f"the list shows every file of the install's folder: {files ^ wanted}")
    for e in listed:
        expect(e["status"] == "ok" or e["file"].endswith(".absent"), f"{e['kind']} {e['name']} is {e['status']}: {e['reason']}")


def check_list(folder):
    put(folder, "sample", "pair", "crash", "hang", "abi_2", "no_symbol", "null_step", "undefined")
    other = os.path.join(folder, "other")
    os.mkdir(other)
    put(other, "sample", "device")
    start = time.monotonic()
    listed = entries(f"{folder}:{other}")
    took = time.monotonic() - start
    mine = [(os.path.relpath(e["file"], folder), e["kind"], e["name"], e["status"])
            for e in listed if e["file"].startswith(folder)]
    expect(mine == [("abi_2.so", "", "", "rejected"),
                    ("crash.so", "", "", "rejected"),
                    ("hang.so", "", "", "rejected"),
                    ("no_symbol.so", "", "", "rejected"),
                    ("null_step.so", "optim", "Sample", "rejected"),
                    ("pair.so", "optim", "PairFirst", "ok"),
                    ("pair.so", "optim", "PairSecond", "ok"),
                    ("pair.so", "optim", "PairThird", "rejected"),
                    ("sample.so", "optim", "Sample", "ok"),
                    ("undefined.so", "", "", "rejected"),
                    ("other/device.so", "optim", "Sample", "ok"),  # on another space: no shadow
                    ("other/sample.so", "optim", "Sample", "shadowed")], f"the list: {mine}")
    expect(2 <= took < 20, f"the plugin that hangs costs its 2 s: {took:.1f} s")
    reasons = {os.path.relpath(e["file"], folder): e["reason"] for e in listed}
    for file, part in (("abi_2.so", "plugin ABI 2"), ("crash.so", "crashed"),
                       ("hang.so", "within 2 s"), ("no_symbol.so", "zds_plugin_v1"),
                       ("null_step.so", "step of its zds_optim_ops is NULL"),
                       ("other/sample.so", os.path.join(folder, "sample.so"))):
        expect(part in reasons[file], f"{file}: {reasons[file]}")
    expect(reasons["undefined.so"].startswith("undefined symbol: zds_function"),
           f"the file's name is told once: {reasons['undefined.so']}")
    sample = next(e for e in listed if e["file"] == os.path.join(folder, "sample.so"))
    expect(sample["aliases"] == ["Example"] and sample["version"] == "1.0" and
           sample["abi"] == "1.0" and sample["doc"] == "for tests" and sample["reason"] == "",
           f"an entry has it all: {sample}")
    kinds = {e["kind"] for e in entries(folder, "--kind", "sched")}
    expect(kinds <= {"sched", ""}, f"--kind sched: {kinds}")
    code, out, _ = plugins("--list", path=folder, timeout="0.5")
    lines = out.splitlines()
    expect(code == 0 and lines[0].split() == ["KIND", "NAME", "VERSION", "ABI", "STATUS", "FILE"] and
           any(line.split()[:5] == ["optim", "Sample", "1.0", "1.0", "ok"] for line in lines),
           "--list as text")


def check_absent(folder):
    """A plugin that a build has left out is told with the reason, to whoever asks for it alone."""
    put(folder, "sample")
    path = os.path.join(folder, "offload_far.absent")
    with open(path, "w", encoding="utf-8") as file:
        file.write("it was built without libfar: install libfar-dev\n")
    os.chmod(path, 0o644)
    rows = {e["file"]: (e["status"], e["reason"]) for e in entries(folder)}
    expect(rows.get(path) == ("rejected", "it was built without libfar: install libfar-dev"),
           f"the list says why: {rows.get(path)}")
    code, _, err = plugins("--info", "far", path=folder)
    expect(code == 1 and path in err and "without libfar" in err, f"--info far: {err.strip()}")
    code, _, err = plugins("--info", "sample", path=folder)
    expect(code == 0 and "libfar" not in err, f"--info sample says nothing of it: {err.strip()}")


def check_info(folder):
    put(folder, "sample", "null_step")
    code, out, _ = plugins("--info", "example", "--json", path=folder)
    info = json.loads(out)
    lr = info["options"][0]
    expect(code == 0 and info["name"] == "Sample" and info["kind"] == "optim" and
           info["file"] == os.path.join(folder, "sample.so"), "--info by an alias")
    expect({k: lr[k] for k in ("name", "type", "default", "min", "max", "choices", "auto_from",
                               "required", "doc")} ==
           {"name": "lr", "type": "float", "default": 0.001, "min": 0, "max": None,
            "choices": None, "auto_from": "learning_rate", "required": False,
            "doc": "learning rate"}, f"an option: {lr}")
    code, out, _ = plugins("--info", os.path.join(folder, "sample.so"))
    expect(code == 0 and "float, at least 0, default 0.001, \"auto\" takes learning_rate" in out,
           "--info by a path, as text")
    code, out, err = plugins("--info", "sampel", path=folder)
    expect(code == 1 and not out and "did you mean Sample" in err, f"a slip: {err.strip()}")
    code, out, err = plugins("--info", os.path.join(folder, "null_step.so"))
    expect(code == 1 and "is NULL, and it is not optional" in err, f"a refused one: {err.strip()}")


def check_check(folder):
    """The faults that --check finds are plugin_check.py's subject."""
    put(folder, "sample", "crash", "null_step")
    sample = os.path.join(folder, "sample.so")
    code, out, _ = plugins("--check", sample, "--json")
    found = json.loads(out)
    expect(code == 0 and {r["status"] for r in found} <= {"ok", "skipped", "note"} and
           all(set(r) == {"plugin", "check", "status", "text"} for r in found) and
           {(r["plugin"], r["check"]) for r in found} >=
           {("", "open"), ("Sample", "descriptor"), ("Sample", "a plain step"), ("", "close")},
           f"--check as JSON: {len(found)} results")
    code, out, _ = plugins("--check", sample)
    lines = out.splitlines()
    expect(code == 0 and "ok       Sample: descriptor" in lines and
           len(lines) == len(found) + 1 and "0 failed" in lines[-1], "--check as text")
    code, out, _ = plugins("--check", os.path.join(folder, "null_step.so"))
    expect(code == 1 and "1 failed" in out and "descriptor: step of its" in out,
           "a faulty plugin: exit 1")
    code, _, err = plugins("--check", os.path.join(folder, "none.so"))
    expect(code == 1 and "there is no plugin file" in err, f"no such file: {err.strip()}")
    os.chmod(os.path.join(folder, "crash.so"), 0o777)
    code, out, _ = plugins("--check", os.path.join(folder, "crash.so"), "--json")
    found = json.loads(out)
    expect(code == 1 and len(found) == 1 and "can be written by everyone" in found[0]["text"],
           f"what others can write is not opened: {found}")


if not os.path.isdir(SAMPLES):
    print(f"skipped: {SAMPLES} is not built")
    sys.exit(77)
check_usage()
check_install()
for test in check_list, check_info, check_absent, check_check:
    with tempfile.TemporaryDirectory() as temporary:
        test(os.path.realpath(temporary))
sys.exit(1 if failures else 0)
