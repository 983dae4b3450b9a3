"""docs/plugins.md as its reader uses it: its commands run against an install, its code compiles, its
signatures are the header's, and every function of the ABI has a section."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, as_cpp20, expect, library_folder, prefix, run

with open(os.path.join(SOURCE, "docs", "plugins.md")) as file:
    PAGE = file.read()


def read_header():
    with open(os.path.join(SOURCE, "include", "zds", "plugin.h")) as file:
        return re.sub(r"/\*.*?\*/", " ", file.read(), flags=re.DOTALL)


HEADER = read_header()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def flat(text):
    return re.sub(r"\s+", " ", text).strip()


def check_signatures():
    """The page's sections and the header's tables of functions are the same."""
    kinds = {"optim": "Optimizer", "sched": "Schedule", "offload": "Memory tier",
             "comm": "Communication"}
    for kind, title in kinds.items():
        body = re.search(rf"struct zds_{kind}_ops \{{(.*?)\n\}}", HEADER, re.DOTALL).group(1)
        declared = {name: flat(f"{kind_of} (*{name})({arguments});") for kind_of, name, arguments in
                    re.findall(r"(\w+) \(\*(\w+)\)\((.*?)\);", body, re.DOTALL)}
        text = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE).group(1)
        told = {name: flat(code) for name, code in
                re.findall(r"^### `(\w+)`\n\n```c\n(.*?)```", text, re.DOTALL | re.MULTILINE)}
        expect(set(told) == set(declared), f"{kind}: {len(told)} functions, {len(declared)} in the "
               f"header {set(told) ^ set(declared) or ''}")
        wrong = [name for name in told if told[name] != declared[name]]
        expect(not wrong, f"{kind}: signatures are the header's {wrong or ''}")


def check_code(folder, root):
    code = next(block for block in blocks("c") if "to_bf16" in block)
    path = os.path.join(folder, "bf16.c")
    with open(path, "w") as file:
        file.write("#include <stdio.h>\n#include <string.h>\n#include <zds/plugin.h>\n" + code +
                   "int main(void) { printf(\"%x %x %x %g\\n\", to_bf16(1.00390625f), "
                   "to_bf16(1.01171875f), to_bf16(0.0f / 0.0f) & 0x7fff, (double)from_bf16(0x3fc0)); }")
    run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{root}/include", path, "-o", path[:-2]])
    got = run([path[:-2]]).strip()  # ties go to even: 1 + 1/256 down, 1 + 3/256 up
    expect(got == "3f80 3f82 7fc0 1.5", f"the bf16 functions: {got}")


def check_cpp(folder, env):
    """The page's C++ compiles in three standards without a warning and is a good plugin; a project
    without C builds it."""
    own = os.path.join(folder, "my_sgd")
    os.mkdir(own)
    source = os.path.join(own, "my_sgd.cpp")
    with open(source, "w") as file:
        file.write(blocks("cpp")[0])
    for compiler in [command[0] for command in as_cpp20()]:
        for standard in ("c++14", "c++17", "c++20"):
            run([compiler, f"-std={standard}", "-Wall", "-Wextra", "-Wshadow", "-Wconversion",
                 "-pedantic", "-Werror", "-O2", "-fPIC", "-shared", "-fvisibility=hidden",
                 f"-I{env['ZDS']}/include", source, "-o", os.path.join(own, "my_sgd.so")])
            expect(True, f"{compiler} -std={standard} -Wall -Wextra -pedantic")
        run(["zds-plugins", "--check", os.path.join(own, "my_sgd.so")], cwd=folder, env=env)
        expect(True, f"what {compiler} made passes --check")
    with open(os.path.join(own, "CMakeLists.txt"), "w") as file:
        file.write(blocks("cmake")[0].replace("LANGUAGES C)", "LANGUAGES CXX)")
                   .replace("my_opt", "my_sgd").replace("my_sgd.c)", "my_sgd.cpp)"))
    run(["cmake", "-S", own, "-B", os.path.join(own, "build"), f"-DCMAKE_PREFIX_PATH={env['ZDS']}"])
    run(["cmake", "--build", os.path.join(own, "build")])
    run(["ctest", "--test-dir", os.path.join(own, "build"), "--output-on-failure"])
    expect(True, "a project of C++ alone, by zds_add_plugin")


def check_commands(folder, env):
    """The first shell block makes a plugin; the second builds it once more without CMake."""
    make, line = blocks("sh")
    said = run(["sh", "-ec", make], cwd=folder, env=env)
    expect("100% tests passed" in said and "momentum_buffer" not in said and "optim" in said,
           "from nothing to a checked plugin, by the page's commands")
    run(["sh", "-ec", line], cwd=folder, env=env)
    run(["zds-plugins", "--check", "./my_opt.so"], cwd=folder, env=env)
    expect(True, f"{line.strip()}: passes --check")
    own = os.path.join(folder, "own")
    os.mkdir(own)
    with open(os.path.join(own, "CMakeLists.txt"), "w") as file:
        file.write(blocks("cmake")[0])
    os.rename(os.path.join(folder, "my_opt", "my_opt.c"), os.path.join(own, "my_opt.c"))
    run(["cmake", "-S", own, "-B", os.path.join(own, "build"),
         f"-DCMAKE_PREFIX_PATH={env['ZDS']}"])
    run(["cmake", "--build", os.path.join(own, "build")])
    expect(os.path.exists(os.path.join(own, "build", "optim_my_opt.so")), "the page's CMakeLists.txt")


check_signatures()
with prefix() as (temporary, root):
    os.umask(0o022)
    work = os.path.join(temporary, "work")
    os.mkdir(work)
    environment = dict(os.environ, ZDS=root,
                       PATH=os.path.join(root, "bin") + ":" + os.environ["PATH"],
                       PKG_CONFIG_PATH=os.path.join(library_folder(root), "pkgconfig"))
    check_code(work, root)
    check_commands(work, environment)
    check_cpp(work, environment)
