"""An install: complete, movable, found by CMake and pkg-config, and exporting what is its own."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import abi
from installed import SOURCE, as_cpp20, expect, library_folder, prefix, run

PROGRAMS = ["zds-plugins", "zds-run", "zds-train", "zds-replay", "zds-bench"]


def check_files(root, lib):
    for program in PROGRAMS:
        expect(os.access(os.path.join(root, "bin", program), os.X_OK), f"bin/{program} is there")
    headers = sorted(os.listdir(os.path.join(SOURCE, "include", "zds")))
    got = sorted(os.listdir(os.path.join(root, "include", "zds")))
    expect(got == headers, f"headers {got}")
    expect(os.path.islink(os.path.join(lib, "libzds.so")), "libzds.so links to a versioned file")


def check_symbols(lib):
    plugins = os.path.join(lib, "zds", "plugins")
    for name in sorted(os.listdir(plugins)):
        if not name.endswith(".so"):
            continue
        names = list(abi.exports(os.path.join(plugins, name)))
        expect(names == ["zds_plugin_v1"], f"{name} exports {names}")


def check_headers(root):
    """Each header compiles by itself, as C11 and as C++20."""
    include = os.path.join(root, "include")
    compilers = [["gcc", "-x", "c", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"], *as_cpp20()]
    for header in sorted(os.listdir(os.path.join(include, "zds"))):
        for compiler in compilers:
            subprocess.run([*compiler, "-Wshadow", "-Wconversion", "-fsyntax-only", f"-I{include}", "-"],
                           input=f"#include <zds/{header}>\n", text=True, check=True)
            expect(True, f"zds/{header} alone, by {compiler[0]}")
        with open(os.path.join(include, "zds", header), encoding="utf-8") as text:
            expect("cJSON" not in text.read(), f"zds/{header} has no other library's names")


# Written when zds_problem had no size: uninitialised structs, and names that a header could shadow.
BEFORE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zds/zds.h>

struct options { int unused; } options;
int config, problem, hf, mismatch, count, points, error;

static bool visit(void *user, const zds_config_key *key)
{
    *(int *)user += strcmp(key->path, "zero_optimization.stage") == 0;
    return true;
}

int main(void)
{
    zds_config_context context = {.struct_size = sizeof context,
                                  .world_size = 2,
                                  .hidden_size = 8,
                                  .num_training_steps = 9,
                                  .auto_find_batch_size = false,
                                  .accelerate = true,
                                  .check_plugins = true,
                                  .arguments_source = "{\"learning_rate\": 0.5}"};
    zds_config *c = NULL;
    zds_error why = ZDS_ERROR_INIT;
    zds_problem p;
    zds_hf_mismatch m;
    int keys = 0;
    zds_config_load("{\"train_batch_size\": 2, \"optimizer\": {\"type\": \"SGD\", \"params\": "
                    "{\"lr\": 0.25}}}", &context, &c, &why);
    zds_config_keys(visit, &keys);
    if (!c || keys != 1 || !zds_config_problem(c, 0, &p) || zds_config_problem(c, 1, &p))
        return 1;
    printf("%s:%d:%d: %s: %d\n", p.file, p.line, p.column, p.path, p.severity);
    if (!zds_hf_config_mismatch(zds_config_hf(c), 0, &m))
        return 2;
    printf("%s %s %s\n", m.ds_key, m.hf_key, zds_config_place(c, "optimizer.params.lr"));
    zds_schedule_point steps[3];
    bool moves;
    zds_engine_options o = {.struct_size = sizeof o};
    if (zds_schedule_points(c, &o, NULL, 3, steps, &moves, &why))
        return 3;
    printf("%g %g %d\n", steps[0].lr, steps[2].lr, moves);
    char *text = zds_config_problems_text(c);
    free(text);
    zds_error_clear(&why);
    zds_config_destroy(c);
    return 0;
}
"""


def check_program_of_before(root, lib):
    source, program = os.path.join(root, "before.c"), os.path.join(root, "before")
    with open(source, "w", encoding="utf-8") as out:
        out.write(BEFORE)
    run(["gcc", "-std=c11", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{root}/include", source,
         f"-L{lib}", f"-Wl,-rpath,{lib}", "-lzds", "-o", program])
    got = run([program]).splitlines()
    expect(got == ["<string>:1:71: optimizer.params.lr: 0", "optimizer.params.lr learning_rate "
                   "<string>:1:71", "0.25 0.25 0"], f"a program from before sizes: {got}")


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
    check_program_of_before(root, lib)
    check_plugins(root, lib)
    check_pkg_config(lib)
