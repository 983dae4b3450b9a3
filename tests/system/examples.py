"""The examples, built out of tree against an install as a stranger would, and run."""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, expect, library_folder, prefix, run

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
        for program in ("own_loop", "train_batch"):
            command = [os.path.join(build, program), config, str(STEPS)]
            outputs[ranks, program] = run([zds_run, "-n", str(ranks), *command])
        expect(outputs[ranks, "own_loop"] == outputs[ranks, "train_batch"],
               f"{ranks} ranks: the program's own loop and zds_train_batch print the same")
    expect(outputs[1, "own_loop"] == run([os.path.join(copy, "own_loop"), config, str(STEPS)]),
           "built with make, without zds-run: the same")
    one, two = losses(outputs[1, "own_loop"]), losses(outputs[2, "own_loop"])
    expect(len(one) == len(two) == 1 + STEPS // 50, f"{len(one)} lines of losses")
    # The ranks share one batch, so only the order of additions differs.
    expect(all(abs(a - b) <= 1e-3 * a for a, b in zip(one, two)),
           f"1 and 2 ranks agree: {one} {two}")
    expect(one[-1] < 0.05 * KNOWS_NOTHING, f"the loss falls from {one[0]} to {one[-1]}")


with prefix() as (folder, root):
    check_program(folder, root, library_folder(root))
