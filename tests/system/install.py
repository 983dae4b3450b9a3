"""An install: complete, movable, found by CMake and pkg-config, and exporting what is its own."""
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, expect, library_folder, prefix, run

PROGRAMS = ["zds-plugins", "zds-run", "zds-train", "zds-replay", "zds-bench"]


def check_files(root, lib):
    for program in PROGRAMS:
        expect(os.access(os.path.join(root, "bin", program), os.X_OK), f"bin/{program} is there")
    headers = sorted(os.listdir(os.path.join(SOURCE, "include", "zds")))
    got = sorted(os.listdir(os.path.join(root, "include", "zds")))
    expect(got == headers, f"headers {got}")
    expect(os.path.islink(os.path.join(lib, "libzds.so")), "libzds.so links to a versioned file")


def check_symbols(lib):
    names = [line.split()[-1] for line in
             run(["nm", "-D", "--defined-only", os.path.join(lib, "libzds.so")]).splitlines()]
    foreign = [name for name in names if not name.startswith("zds_")]
    expect(names and not foreign, f"libzds.so exports {len(names)} symbols, all zds_ ({foreign})")
    plugins = os.path.join(lib, "zds", "plugins")
    for name in sorted(os.listdir(plugins)):
        if not name.endswith(".so"):
            continue
        names = [line.split()[-1] for line in
                 run(["nm", "-D", "--defined-only", os.path.join(plugins, name)]).splitlines()]
        expect(names == ["zds_plugin_v1"], f"{name} exports {names}")


def check_headers(root):
    """Each header compiles by itself, as C and, where a compiler is there, as C++."""
    include = os.path.join(root, "include")
    compilers = [["gcc", "-x", "c", "-std=c11"]]
    if shutil.which("clang++"):
        compilers.append(["clang++", "-x", "c++", "-std=c++17"])
    for header in sorted(os.listdir(os.path.join(include, "zds"))):
        for compiler in compilers:
            subprocess.run([*compiler, "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
                            f"-I{include}", "-"], input=f"#include <zds/{header}>\n", text=True,
                           check=True)
            expect(True, f"zds/{header} alone, by {compiler[0]}")


def check_plugins(root, lib):
    listed = json.loads(run([os.path.join(root, "bin", "zds-plugins"), "--list", "--json"],
                            env={"PATH": os.environ["PATH"]}))
    entries = listed if isinstance(listed, list) else listed["plugins"]
    bad = [entry for entry in entries if entry["status"] not in ("ok", "not built")]
    expect(not bad, f"no plugin of the install is refused ({bad})")
    outside = [entry["file"] for entry in entries if entry["status"] == "ok" and
               not os.path.realpath(entry["file"]).startswith(os.path.realpath(lib))]
    expect(not outside, f"all plugins are the install's ({outside})")
    names = {(entry["kind"], entry["name"]) for entry in entries if entry["status"] == "ok"}
    for kind, name in [("optim", "AdamW"), ("optim", "SGD"), ("sched", "WarmupLR"),
                       ("offload", "cpu"), ("comm", "self"), ("comm", "shm")]:
        expect((kind, name) in names, f"{kind} {name} is listed")


def check_pkg_config(lib):
    env = dict(os.environ, PKG_CONFIG_PATH=os.path.join(lib, "pkgconfig"))
    version = run(["pkg-config", "--modversion", "zds"], env=env).strip()
    folder = run(["pkg-config", "--variable=plugindir", "zds"], env=env).strip()
    expect(os.path.samefile(folder, os.path.join(lib, "zds", "plugins")),
           f"pkg-config: version {version}, plugins in {folder}")


with prefix() as (_, root):
    lib = library_folder(root)
    check_files(root, lib)
    check_symbols(lib)
    check_headers(root)
    check_plugins(root, lib)
    check_pkg_config(lib)
