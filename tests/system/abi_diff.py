"""abidiff between the stored dump of what libzds.so exported in ABI 1.0 (tests/plugins/abi_1_0/libzds.abi) and the
library of today, and between all structs of the frozen headers and of today's, those that only plugins see too:
functions may have come, and fields at the end of a struct, and nothing else may be another.
Builds by gcc with -g only. usage: abi_diff.py FOLDER_OF_PROGRAMS"""
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as tree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import abi
from installed import expect

COMPILER = os.environ.get("CC") or shutil.which("gcc")


def members(struct):
    return struct.findall("data-member")


def structs(root):
    """{name: elements} of structs whose fields are told."""
    found = {}
    for struct in root.iter("class-decl"):
        if members(struct):
            found.setdefault(struct.get("name"), []).append(struct)
    return found


def end_of(struct):
    return max(int(member.get("layout-offset-in-bits")) for member in members(struct))


def without_growth(old, new):
    """The dump `new` without the fields that its structs have behind the last one that they have in `old`."""
    root, known = tree.fromstring(new), structs(tree.fromstring(old))
    for name, grown in structs(root).items():
        for struct in grown if name in known else []:
            struct.set("size-in-bits", known[name][0].get("size-in-bits"))
            for member in members(struct):
                if int(member.get("layout-offset-in-bits")) > end_of(known[name][0]):
                    struct.remove(member)
    return tree.tostring(root, encoding="unicode")


def difference(old, new, growth=True):
    """What abidiff says of two dumps, but for growth where that is allowed; "" if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("old.abi", "new.abi")]
        for path, text in zip(files, (old, without_growth(old, new) if growth else new)):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        added = ["--no-added-syms"] if growth else []
        result = subprocess.run(["abidiff", "--no-show-locs", *added, *files], capture_output=True, text=True)
    return result.stdout + result.stderr if result.returncode else ""


SMALL = """#include "zds/engine.h"
%s
zds_status zds_finish(zds_engine *engine, %s result)
{
    return engine && result ? ZDS_OK : ZDS_ERR_INVALID;
}
"""


def small(before="", after="", result="zds_step_result *", more=""):
    """The dump of a library with zds_finish alone, its engine.h changed."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(os.path.join(abi.TODAY, "zds"), os.path.join(folder, "zds"))
        header, source, library = (os.path.join(folder, name) for name in ("zds/engine.h", "core/small.c", "small.so"))
        with open(header, encoding="utf-8") as file:
            text = file.read()
        assert not before or text.count(before) == 1, before
        with open(header, "w", encoding="utf-8") as file:
            file.write(text.replace(before, after).replace("zds_finish(zds_engine", "zds_other(zds_engine"))
        os.mkdir(os.path.dirname(source))
        with open(source, "w", encoding="utf-8") as file:
            file.write(SMALL % (more, result))
        subprocess.run([*COMPILER.split(), "-g", "-shared", "-fPIC", "-I", folder, source, "-o", library], check=True)
        return abi.dump(library, folder)


def changed(header, before, after, folder):
    """Today's headers in a folder, one of them changed."""
    shutil.copytree(os.path.join(abi.TODAY, "zds"), os.path.join(folder, "zds"))
    path = os.path.join(folder, "zds", header)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert text.count(before) == 1, before
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(before, after))


def all_structs(include):
    """The dump of a library that exports a pointer to each struct of the headers in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = os.path.join(folder, "core", "structs.c"), os.path.join(folder, "structs.so")
        os.mkdir(os.path.dirname(source))
        with open(source, "w", encoding="utf-8") as file:
            file.writelines(f'#include "zds/{name}"\n' for name in abi.headers(include))
            file.writelines(f"struct {name} *all_{name};\n" for name in abi.structs(include))
        subprocess.run([*COMPILER.split(), "-g", "-shared", "-fPIC", "-I", include, source, "-o", library], check=True)
        return abi.dump(library, include)


def check_it_sees_structs(frozen):
    for header, before, after, word in [
            ("plugin.h", "(*step)(void *self, const zds_tiles *tiles,", "(*step)(void *self, const zds_param_steps *tiles,", "step"),
            ("plugin.h", "(*at)(void *self, int64_t moves,", "(*at)(void *self, double moves,", "at"),
            ("plugin.h", "(*free)(void *self, zds_block *block);", "(*free)(void *self, zds_end *block);", "free"),
            ("plugin.h", "(*abort)(void *self, const char *reason);", "(*abort)(void *self);", "abort"),
            ("plugin.h", "(*free)(const zds_host *host, void *pointer);", "(*free)(void *pointer, const zds_host *host);", "free"),
            ("plugin.h", "const double *sums;  /* in `step`", "const float *sums;  /* in `step`", "sums"),
            ("types.h", "zds_status (*wait)(zds_event *event);", "zds_status (*wait)(zds_event *event, int32_t ms);", "wait"),
            ("plugin.h", "\n} zds_sched_ops;", "\n    void (*later)(void *self);\n} zds_sched_ops;", "")]:
        with tempfile.TemporaryDirectory() as folder:
            changed(header, before, after, folder)
            said = difference(frozen, all_structs(folder))
        expect(f"* {word}' changed" in said if word else not said,
               f"seen: {after}" if word else "a new function at the end breaks nothing" + said)


def check_it_sees():
    """What may grow does, and what may not is seen."""
    old = small()
    skips = "    int64_t skips;     /* skipped so far */"
    loss = "    double loss;    /* zds_train_batch only"
    grown = small("} zds_step_result;", "    double later;\n} zds_step_result;")
    more = small(more="int32_t zds_new(void);\nint32_t zds_new(void)\n{\n    return 1;\n}")
    expect(difference(old, grown) == "" and "later" in difference(old, grown, growth=False),
           "a new field at the end breaks nothing")
    expect(difference(old, more) == "" and "zds_new" in difference(old, more, growth=False),
           "a new function breaks nothing")
    for new, word in [(small(skips, f"    int64_t early;\n{skips}"), "early"),
                      (small(skips, skips.replace("int64_t", "double ")), "skips"),
                      (small(loss, loss.replace("double", "int64_t")), "loss"),
                      (small(result="const void *"), "zds_finish"),
                      (old.replace("zds_finish", "zds_end"), "zds_finish")]:
        said = difference(old, new)
        expect(word in said, f"seen: {word}{'' if word in said else said}")


library = os.path.join(os.path.dirname(os.path.abspath(sys.argv[1])), "lib", "libzds.so")
why = abi.why_no_dump(library)
if why or not COMPILER:
    print(f"skipped: {why or 'there is no gcc'}")
    sys.exit(77)
check_it_sees()
with open(abi.DUMP, encoding="utf-8") as file:
    stored = file.read()
expect(abi.SOURCE not in stored and "='/" not in stored, "the stored dump has no path of a machine")
today = abi.dump(library)
said = difference(stored, today)
expect(not said, "what was built with ABI 1.0 finds what it knew" +
       (f"; this is another now (until the release: a line in CHANGES, and {abi.RENEW}):\n{said}" if said else ""))
if not abi.released():
    said = difference(stored, today, growth=False)
    expect(not said, "until it is released, 1.0 is what libzds.so is" + (f"; {abi.RENEW}:\n{said}" if said else ""))
frozen = all_structs(abi.FROZEN)
check_it_sees_structs(frozen)
said = difference(frozen, all_structs(abi.TODAY))
expect(not said, "every struct is what it was" + (f":\n{said}" if said else ""))
