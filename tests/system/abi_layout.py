"""The frozen copy of ABI 1.0 (tests/plugins/abi_1_0) against the headers of today: its files are those of SHA256SUMS, and
every field, enumerator and named size of it has the same place and value today; new fields come at the end. What may
change before the first release is written in CHANGES there. usage: abi_layout.py FOLDER_OF_PROGRAMS"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, expect

FROZEN = os.path.join(SOURCE, "tests", "plugins", "abi_1_0")
TODAY = os.path.join(SOURCE, "include")
# The last of a struct, which grows with it.
GROWING = {"zds_sched_value.hyper"}
HEADERS = ["status.h", "types.h", "plugin.h"]
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")


def plain(folder):
    """The headers without comments and preprocessor lines."""
    text = ""
    for name in HEADERS:
        with open(os.path.join(folder, "zds", name)) as file:
            text += file.read()
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).replace("\\\n", " ")
    return re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE)


def sizes(folder):
    names = []
    for name in HEADERS:
        with open(os.path.join(folder, "zds", name)) as file:
            names += re.findall(r"^#define (ZDS_\w+_1_0)\b", file.read(), re.MULTILINE)
    return names


def fields(body):
    """Names of the fields of a struct's body."""
    names = []
    body = re.sub(r"\bZDS_PRINTF\([^)]*\)", "", body)
    depth, start = 0, 0
    for i, c in enumerate(body):
        depth += (c == "(") - (c == ")")
        if c != ";" or depth:
            continue
        declaration, start = body[start:i], i + 1
        function = re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", declaration)
        if function:
            names.append(function.group(1))
            continue
        for declarator in declaration.split(","):
            names.append(re.findall(r"\w+", re.sub(r"\[[^]]*\]", "", declarator))[-1])
    return names


def structs(text):
    found = re.findall(r"\bstruct (zds_\w+) \{(.*?)\n\}", text, re.DOTALL)
    return {name: fields(body) for name, body in found}


def enumerators(text):
    return [name for body in re.findall(r"\benum \{(.*?)\}", text, re.DOTALL)
            for name in re.findall(r"\b(ZDS_\w+) *=", body)]


def layout(folder):
    """{what: numbers} of the headers in a folder, as a C compiler has them."""
    text = plain(folder)
    lines = []
    for struct, names in structs(text).items():
        lines.append(f'P("{struct}", 0, sizeof(struct {struct}));')
        lines += [f'P("{struct}.{name}", offsetof(struct {struct}, {name}), '
                  f'sizeof(((struct {struct} *)0)->{name}));' for name in names]
    lines += [f'P("{name}", {name}, 0);' for name in enumerators(text) + sizes(folder)]
    with tempfile.TemporaryDirectory() as inner:
        source, program = os.path.join(inner, "layout.c"), os.path.join(inner, "layout")
        with open(source, "w") as file:
            file.write('#include <stdio.h>\n#include "zds/plugin.h"\n'
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
            sized = f"{name}.struct_size" in old or name in ("zds_option", "zds_segment")
            if new.get(name, (0, 0))[1] < at[1] or (not sized and new[name] != at):
                bad.append(f"{name} has another size")
        elif name in new and (name in GROWING or name.endswith("_COUNT")):
            if new[name][0] < at[0] or new[name][1] < at[1]:
                bad.append(f"{name} was {at} and is {new[name]}")
        elif new.get(name) != at:
            bad.append(f"{name} was {at} and is {new.get(name, 'gone')}")
    return bad


def check_sums():
    with open(os.path.join(FROZEN, "SHA256SUMS")) as file:
        told = dict(reversed(line.split()) for line in file)
    there = {}
    for name in HEADERS:
        with open(os.path.join(FROZEN, "zds", name), "rb") as file:
            there[f"zds/{name}"] = hashlib.sha256(file.read()).hexdigest()
    expect(sorted(os.listdir(os.path.join(FROZEN, "zds"))) == sorted(HEADERS), "the frozen headers are those that are compared")
    expect(told == there, "they are those of SHA256SUMS (a change before the release needs a line in CHANGES and new sums)")
    with open(os.path.join(FROZEN, "CHANGES")) as file:
        lines = file.read().splitlines()
    expect(lines and all(len(line) > 20 for line in lines), "every line of CHANGES says something")


def changed(old, new):
    """Today's headers with a change of plugin.h."""
    folder = tempfile.mkdtemp()
    shutil.copytree(os.path.join(TODAY, "zds"), os.path.join(folder, "zds"))
    path = os.path.join(folder, "zds", "plugin.h")
    with open(path) as file:
        text = file.read()
    assert text.count(old) == 1, old
    with open(path, "w") as file:
        file.write(text.replace(old, new))
    found = layout(folder)
    shutil.rmtree(folder)
    return found


def check_it_sees(frozen):
    """Growth at the end is allowed, and what is not is seen."""
    end = "    size_t chunk_stride;\n} zds_tile;"
    expect(breaks(frozen, changed(end, end.replace("\n}", "\n    void *later;\n}"))) == [], "a new field at the end breaks nothing")
    for old, new, word in [
            ("    void *const *states; /* in, out: [state_count], in the order of describe */",
             "    void *early;\n    void *const *states;", "zds_tile.early is new"),
            ("    uint32_t index; /* counts", "    uint64_t index; /* counts", "zds_param.index was"),
            ("    ZDS_STATE_TENSOR = 2,", "    ZDS_STATE_TENSOR = 9,", "ZDS_STATE_TENSOR was"),
            ("    zds_device device; /* where the bytes are */",
             "    zds_device device;\n    void *later;", "zds_end has another size")]:
        bad = breaks(frozen, changed(old, new))
        expect(any(word in line for line in bad), f"seen: {word}")


if not COMPILER:
    print("there is no C compiler")
    sys.exit(77)
check_sums()
frozen, today = layout(FROZEN), layout(TODAY)
expect(len(frozen) > 400, f"{len(frozen)} fields, enumerators and sizes are found")
missed, broken = holes(frozen) + holes(today), breaks(frozen, today)
expect(not missed, "they are all fields of each struct" + "".join(f"\n      not of {name}" for name in missed))
expect(not broken, "all are where and what they were" + "".join(f"\n      {line}" for line in broken))
check_it_sees(frozen)
