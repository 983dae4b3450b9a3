"""The examples, built out of tree against an install as a stranger would, and run."""
import json
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, as_cpp20, expect, library_folder, prefix, run

STEPS = 300
# The function that the example fits has values sin(3 x) cos(2 y), whose mean square over
# [-1, 1)^2 is (1 - sin 6 / 6) / 2 x (1 + sin 4 / 4) / 2 = 0.2121: the loss of a model that knows
# nothing. The trained one must have explained 95 % of it.
KNOWS_NOTHING = 0.2121


def losses(output):
    return [float(loss) for loss in re.findall(r"loss ([0-9.e+-]+)", output)]


def build_with_cmake(folder, root, name):
    build = os.path.join(folder, "build-" + name)
    run(["cmake", "-S", os.path.join(SOURCE, "examples", name), "-B", build, "-G", "Ninja",
         f"-DCMAKE_PREFIX_PATH={root}", "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror"])
    run(["cmake", "--build", build])
    return build


def check_program(folder, root, lib):
    build = build_with_cmake(folder, root, "program")
    copy = os.path.join(folder, "program")
    shutil.copytree(os.path.join(SOURCE, "examples", "program"), copy)
    run(["make", "-C", copy, f"PKG_CONFIG_PATH={lib}/pkgconfig"])
    config = os.path.join(copy, "ds_config.json")
    zds_run = os.path.join(root, "bin", "zds-run")
    outputs = {}
    for ranks in (1, 2):
        for program in ("own_loop", "train_batch", "whole_graph"):
            command = [os.path.join(build, program), config, str(STEPS)]
            outputs[ranks, program] = run([zds_run, "-n", str(ranks), *command])
        expect(outputs[ranks, "own_loop"] == outputs[ranks, "train_batch"],
               f"{ranks} ranks: the program's own loop and zds_train_batch print the same")
    expect(outputs[1, "own_loop"] == run([os.path.join(copy, "own_loop"), config, str(STEPS)]),
           "built with make, without zds-run: the same")
    for compiler in as_cpp20():
        for program, *sources in (("own_loop", "mlp.c"), ("train_batch", "mlp.c"), ("whole_graph", "mlp.c")):
            run([*compiler, "-O2", f"-I{root}/include", f"{program}.c", *sources, f"-L{lib}", f"-Wl,-rpath,{lib}", "-lzds",
                 "-o", f"{program}_cpp"], cwd=copy)
            expect(outputs[1, program] == run([os.path.join(copy, f"{program}_cpp"), config, str(STEPS)]),
                   f"{program} as C++20, by {compiler[0]}: the same")
    one, two = losses(outputs[1, "own_loop"]), losses(outputs[2, "own_loop"])
    expect(len(one) == len(two) == 1 + STEPS // 50, f"{len(one)} lines of losses")
    # The ranks share one batch, so only the order of additions differs.
    expect(all(abs(a - b) <= 1e-3 * a for a, b in zip(one, two)),
           f"1 and 2 ranks agree: {one} {two}")
    expect(one[-1] < 0.05 * KNOWS_NOTHING, f"the loss falls from {one[0]} to {one[-1]}")
    check_whole_graph(folder, os.path.join(build, "whole_graph"), config, zds_run, one)


def check_whole_graph(folder, program, config, zds_run, by_modules):
    """At the stages that let it hold all modules: the same numbers, and those of module after module."""
    outputs = []
    for stage in (0, 1):
        with open(config) as file:
            text = json.load(file)
        text["zero_optimization"]["stage"] = stage
        path = os.path.join(folder, "graph.json")
        with open(path, "w") as file:
            json.dump(text, file)
        outputs += [run([zds_run, "-n", str(ranks), program, path, str(STEPS)]) for ranks in (1, 2)]
    one, two = losses(outputs[0]), losses(outputs[1])
    expect(len(one) == 1 + STEPS // 50, f"a whole graph: {len(one)} lines of losses")
    expect(outputs[2:] == outputs[:2], "a whole graph: stages 0 and 1 print the same")
    expect(all(abs(a - b) <= 1e-3 * a for a, b in zip(one, two)),
           f"a whole graph: 1 and 2 ranks agree: {one} {two}")
    expect(all(abs(a - b) <= 1e-3 * a for a, b in zip(by_modules, one)),
           f"a whole graph learns what modules one after the other do: {one} {by_modules}")


def check_plugin_of_readme(folder, root, lib):
    """The README's optimizer, copied from the page and built by the page's command."""
    with open(os.path.join(SOURCE, "README.md")) as file:
        readme = file.read()
    code = next(block for block in re.findall(r"```c\n(.*?)```", readme, re.DOTALL)
                if "ZDS_PLUGINS(" in block)
    command = re.search(r"^cc -shared .*$", readme, re.MULTILINE).group()
    plugins = os.path.join(folder, "plugins")
    os.mkdir(plugins, 0o700)
    with open(os.path.join(plugins, "my_descent.c"), "w") as file:
        file.write(code)
    run(["sh", "-c", command], cwd=plugins,
        env=dict(os.environ, PKG_CONFIG_PATH=os.path.join(lib, "pkgconfig")))
    program = os.path.join(folder, "build-program", "own_loop")
    rate = 0.1
    by_name = {"train_batch_size": 64, "gradient_clipping": 0.0,
               "optimizer": {"type": "MyDescent", "params": {"lr": rate}},
               "zero_optimization": {"stage": 1}, "zds": {"plugin_path": [plugins]}}
    by_path = dict(by_name, optimizer={"type": os.path.join(plugins, "my_descent.so"),
                                       "params": {"lr": rate}})
    ours = dict(by_name, optimizer={"type": "SGD", "params": {"lr": rate}})
    results = []
    for config in (by_name, by_path, ours):
        path = os.path.join(folder, "plugin.json")
        with open(path, "w") as file:
            json.dump(config, file)
        results.append(losses(run([program, path, str(STEPS)])))
    named, pathed, sgd = results
    expect(named == pathed, "the README's plugin, by its name and by its path: the same")
    expect(named[-1] < 0.5 * named[0] and all(abs(a - b) <= 1e-3 * b for a, b in zip(named, sgd)),
           f"the README's plugin does what SGD does: {named} {sgd}")


with prefix() as (folder, root):
    lib = library_folder(root)
    check_program(folder, root, lib)
    check_plugin_of_readme(folder, root, lib)
