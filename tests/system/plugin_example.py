"""The example plugins, built out of tree against an install by CMake and by one line of cc, checked;
the optimizer named by path and by name and held against DeepSpeed's Lion, the schedule against its
formula."""
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden
from installed import SOURCE, as_cpp20, expect, library_folder, prefix, run

REPLAY = os.path.join(golden.DATA, "replay")


def replay(root, folder, case, optimizer, **options):
    """The tensors that the golden gradients leave, with this `type` in ds_config."""
    config, out = os.path.join(folder, "ds_config.json"), os.path.join(folder, "out.safetensors")
    tree = json.loads(json.dumps(case["ds_config"]))
    tree["optimizer"]["type"] = optimizer
    del tree["zero_optimization"]["offload_optimizer"]
    with open(config, "w") as file:
        json.dump(tree, file)
    run([os.path.join(root, "bin", "zds-replay"), "--config", config,
         "--params", os.path.join(REPLAY, "init.safetensors"),
         "--grads", os.path.join(REPLAY, "grads", case["grads"]),
         "--micro-steps", str(case["micro_steps"]), "--out", out], **options)
    return golden.read_tensors(out)


def schedule(root, folder, plugin):
    """The rates of 20 steps by this schedule."""
    config = os.path.join(folder, "schedule.json")
    with open(config, "w") as file:
        json.dump({"train_batch_size": 1, "optimizer": {"type": "SGD", "params": {"lr": 0.5}},
                   "scheduler": {"type": plugin, "params": {"half_life": 3, "floor": 0.1}}}, file)
    return json.loads(run([os.path.join(root, "bin", "zds-config"), "schedule", config, "--steps", "20",
                           "--json"]))["lr"]


with prefix() as (folder, root):
    # A copy, as a third party's own folder, that only its owner can write.
    source, build = os.path.join(folder, "source"), os.path.join(folder, "build")
    shutil.copytree(os.path.join(SOURCE, "examples", "plugin"), source)
    os.umask(0o022)
    run(["cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={root}",
         "-DCMAKE_C_FLAGS=-Wall -Wextra -Wpedantic -Werror"])
    run(["cmake", "--build", build])
    plugin = os.path.join(os.path.realpath(build), "my_lion.so")
    zds_plugins = os.path.join(root, "bin", "zds-plugins")
    tested = run(["ctest", "--test-dir", build, "--output-on-failure"])
    expect("my_lion_check" in tested and "my_decay_check" in tested and
           "100% tests passed" in tested, "ctest holds both against zds-plugins --check")
    named = dict(os.environ, ZDS_PLUGIN_PATH=build)
    info = json.loads(run([zds_plugins, "--info", "mylion", "--json"], env=named))
    expect(info["file"] == plugin and [o["name"] for o in info["options"]] ==
           ["lr", "betas", "weight_decay"], f"found by name: {info['file']}")

    with open(os.path.join(REPLAY, "cases.json")) as file:
        case = next(c for c in json.load(file)["cases"] if c["id"] == "lion_z2_w1")
    expected = golden.read_tensors(os.path.join(REPLAY, "expect", case["id"] + ".safetensors"))
    for what, got in (("a path", replay(root, folder, case, plugin)),
                      ("a name", replay(root, folder, case, "MyLion", env=named))):
        for state in ("param.", "exp_avg."):
            gaps = golden.gaps(expected, got, state)
            expect(gaps and golden.percentile99(gaps) <= case["tol"]["p99"] and
                   gaps[-1] <= case["tol"]["max"],
                   f"named by {what}: {state[:-1]} at most {gaps[-1]:.1e} from DeepSpeed's Lion")

    # Without CMake.
    env = dict(os.environ, PKG_CONFIG_PATH=os.path.join(library_folder(root), "pkgconfig"))
    line = "cc -O3 -fPIC -shared $(pkg-config --cflags zds) my_lion.c -o my_lion.so"
    run(["sh", "-c", line], cwd=source, env=env)
    run([zds_plugins, "--check", os.path.join(source, "my_lion.so")])
    expect(True, f"{line}: passes --check")

    wanted = [0.5 * max(2 ** (-k / 3), 0.1) for k in range(20)]
    rates = schedule(root, folder, os.path.join(build, "my_decay.so"))
    expect(len(rates) == 20 and all(abs(a - b) < 1e-12 for a, b in zip(rates, wanted)),
           f"the schedule halves the rate every 3 steps, down to a tenth: {rates[:4]} ..")

    by_c = replay(root, folder, case, plugin)
    for compiler in as_cpp20():
        made = {}
        for name in ("my_lion", "my_decay"):
            made[name] = os.path.join(source, f"{name}_{compiler[0]}.so")
            run([*compiler, "-O3", "-fPIC", "-shared", f"-I{root}/include", f"{name}.c", "-o", made[name]], cwd=source)
            run([zds_plugins, "--check", made[name]])
        expect(replay(root, folder, case, made["my_lion"]) == by_c and
               schedule(root, folder, made["my_decay"]) == rates,
               f"both as C++20, by {compiler[0]}: they pass --check, and do the same")
