"""What a config names as plugins by its place is opened only where the user says so: by every program that
reads one, on the command line or in the environment. Names, and the folders of the environment, are free."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

BIN = os.path.abspath(sys.argv[1])
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("ZDS_TRUST_PLUGINS", "ZDS_PLUGIN_PATH")}


def expect(condition, what):
    print(("ok    " if condition else "FAIL  ") + what)
    if not condition:
        sys.exit(1)


def run(command, **environment):
    return subprocess.run(list(map(str, command)), env=dict(ENVIRONMENT, **environment), capture_output=True, text=True, timeout=120)


def refused(result, where, code=1):
    text = result.stdout + result.stderr
    return result.returncode == code and where in text and "--trust_plugins" in text


def check(folder, config, where, loads, what):
    """`loads`: a path that the plugin's code leaves behind when it runs."""
    path = os.path.join(folder, "ds.json")
    with open(path, "w") as file:
        json.dump(config, file)
    command = [f"{BIN}/zds-config", "check", path]
    expect(refused(run(command), where), f"{what}: refused, and the place is named")
    expect(not os.path.exists(loads), f"{what}: nothing of it has run")
    for value in ("0", "", "yes"):
        expect(refused(run(command, ZDS_TRUST_PLUGINS=value), where), f"{what}: ZDS_TRUST_PLUGINS={value} is no word of trust")
    for trusted in (run([*command, "--trust_plugins"]), run([*command, "--trust-plugins"]), run(command, ZDS_TRUST_PLUGINS="1")):
        expect(trusted.returncode == 0, f"{what}: trusted {trusted.stdout}{trusted.stderr}")


with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o700)
    plugins = os.path.join(folder, "plugins")
    os.mkdir(plugins, 0o700)
    ours = os.path.join(plugins, "leaves_trace.so")
    trace = os.path.join(folder, "trace")
    source = os.path.join(folder, "trace.c")
    with open(source, "w") as file:
        file.write(f"""#include <stdio.h>
#include "anchor.h"
__attribute__((constructor)) static void leave(void)
{{
    FILE *file = fopen("{trace}", "w");
    if (file)
        fclose(file);
}}
ZDS_PLUGINS(&anchor_plugin);
""")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        print("skipped: there is no C compiler")
        sys.exit(77)
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", f"-I{SOURCE}/include", f"-I{SOURCE}/tests/plugins", source, "-o", ours, "-lm"],
                           capture_output=True, text=True)
    expect(built.returncode == 0, f"the plugin is built {built.stderr}")

    base = {"train_micro_batch_size_per_gpu": 1}
    by_path = dict(base, optimizer={"type": ours, "params": {"lr": 0.1}})
    by_folder = dict(base, optimizer={"type": "Anchor", "params": {"lr": 0.1}}, zds={"plugin_path": [plugins]})
    check(folder, by_path, ours, trace, "optimizer.type, a path")
    expect(os.path.exists(trace), "where it is trusted its code runs")
    os.unlink(trace)
    check(folder, by_folder, plugins, trace, "zds.plugin_path")
    os.unlink(trace)

    for section, config in (("zds.comm", dict(base, zds={"comm": os.path.join(plugins, "comm.so")})),
                            ("zds.tiers", dict(base, zds={"tiers": {"host": {"type": os.path.join(plugins, "tier.so")}}})),
                            ("scheduler", dict(base, scheduler={"type": os.path.join(plugins, "sched.so")}))):
        path = os.path.join(folder, "ds.json")
        for name in ("comm", "tier", "sched"):
            shutil.copy(ours, os.path.join(plugins, f"{name}.so"))
        with open(path, "w") as file:
            json.dump(config, file)
        expect(refused(run([f"{BIN}/zds-config", "check", path]), plugins), f"{section}: a path is refused")
        expect(not os.path.exists(trace), f"{section}: nothing of it has run")

    path = os.path.join(folder, "ds.json")
    with open(path, "w") as file:
        json.dump(by_path, file)
    named = dict(base, optimizer={"type": "Anchor", "params": {"lr": 0.1}})
    by_name = os.path.join(folder, "named.json")
    with open(by_name, "w") as file:
        json.dump(named, file)
    expect(run([f"{BIN}/zds-config", "check", by_name], ZDS_PLUGIN_PATH=plugins).returncode == 0,
           "a name in a folder of the environment needs no word")
    expect(run([f"{BIN}/zds-config", "check", path], ZDS_PLUGIN_PATH=plugins).returncode == 0, "nor does the path of a file in it")
    os.unlink(trace)

    model = os.path.join(folder, "gpt2.json")
    with open(model, "w") as file:
        json.dump({"model_type": "gpt2", "vocab_size": 256, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}, file)
    train = [f"{BIN}/zds-train", "--config_name", model, "--train_file", source, "--output_dir", os.path.join(folder, "out"),
             "--deepspeed", path, "--max_steps", "1", "--block_size", "8"]
    bench = [f"{BIN}/zds-bench", "step", "--config", path, "--params", "4Ki", "--tensors", "2", "--steps", "3", "--threads", "1"]
    for command, word in ((train, "zds-train"), (bench, "zds-bench"), ([f"{BIN}/zds-config", "explain", "optimizer.params.lr", path], "explain")):
        expect(refused(run(command), ours), f"{word}: refused")
        expect(not os.path.exists(trace), f"{word}: nothing of it has run")
        trusted = run([*command, "--trust_plugins"])
        expect(trusted.returncode == 0, f"{word} --trust_plugins {trusted.stdout[-500:]}{trusted.stderr[-500:]}")
        os.unlink(trace)
