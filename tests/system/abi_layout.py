"""The frozen copy of ABI 1.0 (tests/plugins/abi_1_0) against the headers of today: its files are those of SHA256SUMS, and
every field, enumerator and constant of it has the same place and value today; new fields come at the end. What may
change before the first release is written in CHANGES there. usage: abi_layout.py FOLDER_OF_PROGRAMS"""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import abi
from abi import FROZEN, TODAY
from installed import expect

# The last of a struct, which grows with it.
GROWING = {"zds_sched_value.hyper", "zds_group_desc.hyper", "zds_group_info.hyper"}
# Without a size of their own: the other side gets a stride, or the size with the call.
STRIDED = {"zds_option", "zds_state_spec", "zds_segment", "zds_slot", "zds_schedule_point"}
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")


def layout(folder):
    """{what: numbers} of the headers in a folder, as a C compiler has them."""
    lines = []
    for struct, names in abi.structs(folder).items():
        lines.append(f'P("{struct}", 0, sizeof(struct {struct}));')
        lines += [f'P("{struct}.{name}", offsetof(struct {struct}, {name}), '
                  f'sizeof(((struct {struct} *)0)->{name}));' for name in names]
    lines += [f'P("{name}", {name}, 0);' for name in abi.enumerators(folder) + abi.constants(folder)]
    with tempfile.TemporaryDirectory() as inner:
        source, program = os.path.join(inner, "layout.c"), os.path.join(inner, "layout")
        with open(source, "w") as file:
            file.write("#include <stdio.h>\n" +
                       "".join(f'#include "zds/{name}"\n' for name in abi.headers(folder)) +
                       '#define P(n, a, b) printf("%s %lld %lld\\n", n, (long long)(a), (long long)(b))\n'
                       "int main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
        subprocess.run([*COMPILER.split(), "-std=c11", "-I", folder, source, "-o", program], check=True)
        out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name: (int(a), int(b)) for name, a, b in (line.split() for line in out.splitlines())}


def members(numbers, struct):
    return {name: at for name, at in numbers.items() if name.startswith(struct + ".")}


def holes(numbers):
    """Structs of which this script misses a field: more bytes between two than alignment asks for."""
    bad = []
    for struct in [name for name in numbers if name.startswith("zds_") and "." not in name]:
        end = 0
        for at, size in sorted(members(numbers, struct).values()) + [(numbers[struct][1], 0)]:
            if not 0 <= at - end < 8:
                bad.append(struct)
            end = at + size
    return bad


def breaks(old, new):
    """What of `old` is elsewhere in `new`, or what is new in the midst of it."""
    bad = []
    for name, at in old.items():
        if name.startswith("zds_") and "." not in name:
            known = members(old, name)
            end = max(a + size for a, size in known.values())
            bad += [f"{field} is new, and not at the end" for field, (a, _) in members(new, name).items()
                    if field not in known and a < end]
            sized = f"{name}.struct_size" in old or name in STRIDED
            if new.get(name, (0, 0))[1] < at[1] or (not sized and new[name] != at):
                bad.append(f"{name} has another size")
        elif name in new and (name in GROWING or name.endswith(("_COUNT", "_MINOR"))):
            if new[name][0] < at[0] or new[name][1] < at[1]:
                bad.append(f"{name} was {at} and is {new[name]}")
        elif new.get(name) != at:
            bad.append(f"{name} was {at} and is {new.get(name, 'gone')}")
    return bad


def check_sums():
    stored = abi.stored()
    with open(os.path.join(FROZEN, "SHA256SUMS"), encoding="utf-8") as file:
        told = dict(reversed(line.split()) for line in file)
    expect(told == {name: hashlib.sha256(content).hexdigest() for name, content in stored.items()},
           f"what is stored is what SHA256SUMS says ({abi.RENEW} writes all of it)")
    lines = abi.changes()
    expect(lines and all(len(said) > 20 for said, _ in lines), "every line of CHANGES says something")
    expect(lines[-1][1] == abi.stamp(FROZEN), "the last one is about the headers as they are" +
           ("" if lines[-1][1] == abi.stamp(FROZEN) else f": add one that says what has changed, then {abi.RENEW}"))
    if not abi.released():
        stale = [name for name in sorted(set(abi.headers(FROZEN)) | set(abi.headers(TODAY)))
                 if abi.read(FROZEN, name) != abi.read(TODAY, name)]
        expect(not stale, "until it is released, 1.0 is what include/zds is" +
               (f", but not {stale}: {abi.RENEW}" if stale else ""))


def changed(header, old, new):
    """The layout of today's headers with a change in one."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(os.path.join(TODAY, "zds"), os.path.join(folder, "zds"))
        path = os.path.join(folder, "zds", header)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        assert text.count(old) == 1, old
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new))
        return layout(folder)


def check_it_sees(frozen):
    """Growth at the end is allowed, and what is not is seen."""
    for header, name in [("plugin.h", "zds_tile"), ("plugin.h", "zds_hyper"), ("plugin.h", "zds_state_spec"), ("engine.h", "zds_slot")]:
        grown = changed(header, f"\n}} {name};", f"\n    void *later;\n}} {name};")
        expect(breaks(frozen, grown) == [], f"a new field at the end of {name} breaks nothing")
    for header, old, new, word in [
            ("plugin.h", "    void *const *states; /* in, out: [state_count], in the order of describe */",
             "    void *early;\n    void *const *states;", "zds_tile.early is new"),
            ("plugin.h", "    uint32_t index; /* counts", "    uint64_t index; /* counts", "zds_param.index was"),
            ("plugin.h", "    ZDS_STATE_TENSOR = 2,", "    ZDS_STATE_TENSOR = 9,", "ZDS_STATE_TENSOR was"),
            ("plugin.h", "#define ZDS_MAX_STATES 8", "#define ZDS_MAX_STATES 9", "ZDS_MAX_STATES was"),
            ("plugin.h", "    zds_device device; /* where the bytes are */",
             "    zds_device device;\n    void *later;", "zds_end has another size"),
            ("engine.h", "    size_t stride;         /* bytes", "    void *early;\n    size_t stride; /* bytes",
             "zds_view.early is new"),
            ("engine.h", "    ZDS_BOUNDARY_NO = 1,", "    ZDS_BOUNDARY_NO = 3,", "ZDS_BOUNDARY_NO was"),
            ("config.h", "    const char *planned;", "    int planned;", "zds_config_key.planned was")]:
        bad = breaks(frozen, changed(header, old, new))
        expect(any(word in line for line in bad), f"seen: {word}")


if not COMPILER:
    print("there is no C compiler")
    sys.exit(77)
check_sums()
frozen, today = layout(FROZEN), layout(TODAY)
expect(len(frozen) > 500, f"{len(frozen)} fields, enumerators and constants are found")
missed, broken = holes(frozen) + holes(today), breaks(frozen, today)
expect(not missed, "they are all fields of each struct" + "".join(f"\n      not of {name}" for name in missed))
expect(not broken, "all are where and what they were" + "".join(f"\n      {line}" for line in broken))
check_it_sees(frozen)
