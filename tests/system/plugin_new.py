"""zds-plugins --new: a plugin of each kind is written, builds out of tree against an install with all
warnings as errors, passes --check, works in a run, and is never written over anything."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden
from installed import expect, prefix, run
import subprocess

REPLAY = os.path.join(golden.DATA, "replay")
FLAGS = "-Wall -Wextra -Wshadow -Wpedantic -Wconversion -Werror"


def attempt(*command, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, **options)


def build(root, source, kind, ident):
    """The plugin's file, after ctest has held it against --check."""
    folder = os.path.join(source, "build")
    run(["cmake", "-S", source, "-B", folder, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={root}",
         f"-DCMAKE_C_FLAGS={FLAGS}"])
    run(["cmake", "--build", folder])
    tested = run(["ctest", "--test-dir", folder, "--output-on-failure"])
    expect(f"{kind}_{ident}_check" in tested and "100% tests passed" in tested,
           f"{kind} {ident}: built without warnings, ctest passes")
    return os.path.join(folder, f"{kind}_{ident}.so")


def replay(root, folder, config):
    path, out = os.path.join(folder, "ds.json"), os.path.join(folder, "out.safetensors")
    metrics = os.path.join(folder, "metrics.json")
    with open(path, "w") as file:
        json.dump(dict(config, train_micro_batch_size_per_gpu=1, gradient_clipping=0), file)
    run([os.path.join(root, "bin", "zds-replay"), "--config", path,
         "--params", os.path.join(REPLAY, "init.safetensors"),
         "--grads", os.path.join(REPLAY, "grads", "normal"),
         "--micro-steps", "4", "--out", out, "--metrics", metrics])
    with open(metrics) as file:
        return golden.read_tensors(out), [step["lr"] for step in json.load(file)]


def check_optim(root, folder, plugin):
    """What the template computes is torch's SGD, which zds has too."""
    params = {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}
    for stage, half in ((0, False), (2, True)):
        rest = {"zero_optimization": {"stage": stage}, "bf16": {"enabled": half}}
        mine, _ = replay(root, folder, {"optimizer": {"type": plugin, "params": params}, **rest})
        ours, _ = replay(root, folder, {"optimizer": {"type": "SGD", "params": params}, **rest})
        gaps = golden.gaps(ours, mine, "param.")
        expect(gaps and gaps[-1] < 1e-6, f"stage {stage}, bf16 {half}: {gaps[-1]:.1e} from SGD")


def check_sched(root, folder, plugin):
    """A line from the optimizer's rate to a tenth of it over 4 steps."""
    _, rates = replay(root, folder,
                      {"optimizer": {"type": "SGD", "params": {"lr": 0.5}},
                       "scheduler": {"type": plugin,
                                     "params": {"total_steps": 4, "end_factor": 0.1}}})
    wanted = [0.5 * (1 - 0.9 * k / 4) for k in range(4)]
    expect(all(abs(a - b) < 1e-12 for a, b in zip(rates, wanted)), f"rates {rates}")


def check_refusals(root, folder):
    program = os.path.join(root, "bin", "zds-plugins")
    kept = os.path.join(folder, "kept")
    os.mkdir(kept)
    again = attempt(program, "--new", "optim", "My-Opt", cwd=folder)
    expect(again.returncode == 1 and "File exists" in again.stderr, again.stderr.strip())
    empty = attempt(program, "--new", "optim", "other", kept)
    expect(empty.returncode == 1 and os.listdir(kept) == [], empty.stderr.strip())
    lost = attempt(program, "--new", "optim", "other", os.path.join(folder, "no", "where"))
    expect(lost.returncode == 1 and "no/where" in lost.stderr, lost.stderr.strip())
    for words, code, part in ((["gpu", "x"], 2, "optim, sched or offload"),
                              (["optim"], 2, "--new KIND NAME"),
                              (["optim", "../x"], 2, "letters, digits"),
                              (["optim", "a\"b"], 2, "letters, digits"),
                              (["optim", "a", "b", "c"], 2, ""),
                              (["optim", "lion"], 1, "take another name"),
                              (["optim", "onebit"], 1, "take another name"),
                              (["comm", "x"], 1, "plugins/comm/self")):
        got = attempt(program, "--new", *words, cwd=folder)
        expect(got.returncode == code and part in got.stderr,
               f"--new {words}: exit {got.returncode}: {got.stderr.strip()}")
    expect(sorted(os.listdir(folder)) == LEFT, "refusals leave nothing behind")


with prefix() as (_, root):
    work = os.path.join(os.path.dirname(root), "work")
    os.mkdir(work, 0o755)
    os.umask(0o022)
    for kind, name, ident, check in (("optim", "My-Opt", "my_opt", check_optim),
                                     ("sched", "Falling", "falling", check_sched),
                                     ("offload", "files", "files", None)):
        run([os.path.join(root, "bin", "zds-plugins"), "--new", kind, name], cwd=work)
        files = sorted(os.listdir(os.path.join(work, name)))
        expect(files == ["CMakeLists.txt", "README.md", ident + ".c"], f"{kind}: {files}")
        for file in files:
            with open(os.path.join(work, name, file)) as text:
                expect("@" not in text.read(), f"{file}: every mark is filled in")
        plugin = build(root, os.path.join(work, name), kind, ident)
        info = json.loads(run([os.path.join(root, "bin", "zds-plugins"), "--info", plugin,
                               "--json"]))
        expect(info["name"] == name and info["kind"] == kind, f"--info says {info['name']}")
        if check:
            check(root, os.path.dirname(plugin), plugin)
    LEFT = sorted(os.listdir(work) + ["kept"])
    check_refusals(root, work)
