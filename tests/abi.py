"""The public interface as its headers declare it, and what is stored of it: ABI 1.0 (tests/plugins/abi_1_0: its
headers, and a dump of the types that libzds.so takes and gives) and the list of what libzds.so exports
(core/libzds.map)."""
import hashlib
import os
import re
import shutil
import subprocess

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TODAY = os.path.join(SOURCE, "include")
FROZEN = os.path.join(SOURCE, "tests", "plugins", "abi_1_0")
MAP = os.path.join(SOURCE, "core", "libzds.map")
DUMP = os.path.join(FROZEN, "libzds.abi")
CHANGES = os.path.join(FROZEN, "CHANGES")
RENEW = "tests/plugins/abi_1_0/renew.py BUILD_FOLDER"


def headers(folder):
    return sorted(os.listdir(os.path.join(folder, "zds")))


def read(folder, header):
    """The bytes of a header; None where the folder has none of that name."""
    path = os.path.join(folder, "zds", header)
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return file.read()


def stored():
    """{name in SHA256SUMS: content} of what is frozen."""
    with open(DUMP, "rb") as file:
        return {"libzds.abi": file.read(), **{f"zds/{name}": read(FROZEN, name) for name in headers(FROZEN)}}


def stamp(folder):
    """The digits that tell the headers of a folder, with their comments, from others: CHANGES has them behind the line
    that says what made them so."""
    return hashlib.sha256(b"".join(read(folder, name) for name in headers(folder))).hexdigest()[:12]


def changes():
    """[(what a line of CHANGES says, its stamp or "")]"""
    with open(CHANGES, encoding="utf-8") as file:
        return [re.fullmatch(r"(.*?)(?: \[([0-9a-f]{12})\])?", line).groups("") for line in file.read().splitlines()]


def released():
    """Whether ABI 1.0 is: from then on nothing that is stored of it changes."""
    with open(os.path.join(SOURCE, "CMakeLists.txt"), encoding="utf-8") as file:
        return int(re.search(r"^project\(zds VERSION (\d+)", file.read(), re.MULTILINE).group(1)) > 0


def text(folder):
    """All headers of a folder, without comments."""
    found = ""
    for name in headers(folder):
        with open(os.path.join(folder, "zds", name), encoding="utf-8") as file:
            found += file.read()
    return re.sub(r"/\*.*?\*/", " ", found, flags=re.DOTALL)


def plain(folder):
    """The same without preprocessor lines."""
    return re.sub(r"^ *#.*$", "", text(folder).replace("\\\n", " "), flags=re.MULTILINE)


def constants(folder):
    """Names of macros that are numbers."""
    return re.findall(r"^ *# *define (ZDS_\w+)[ \\\n]+(?=[-(\d]|[A-Z0-9]+_MAX\b|ZDS_SIZE_THROUGH\b)",
                      text(folder), re.MULTILINE)


def structs(folder):
    """{name of a struct: the names of its fields}"""
    found = re.findall(r"\bstruct (zds_\w+) \{(.*?)\n\}", plain(folder), re.DOTALL)
    return {name: fields(body) for name, body in found}


def fields(body):
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


def enumerators(folder):
    return [name for body in re.findall(r"\benum \{(.*?)\}", plain(folder), re.DOTALL)
            for name in re.findall(r"\b(ZDS_\w+) *=", body)]


def functions(folder):
    """Names of the functions that a library must have for these headers: all but inline ones."""
    code, before = re.sub(r"\bZDS_(BEGIN|END)_DECLS\b", "", plain(folder)), None
    while code != before:
        before, code = code, re.sub(r"\{[^{}]*\}", "@", code)
    found = [re.match(r"\s*(?!typedef\b|static\b)[\w *]+?\b(zds_\w+)\s*\(", declaration)
             for declaration in re.split("[;@]", code)]
    return sorted(match.group(1) for match in found if match)


def nodes():
    """{version: names} of core/libzds.map."""
    with open(MAP, encoding="utf-8") as file:
        script = re.sub(r"/\*.*?\*/", " ", file.read(), flags=re.DOTALL)
    return {version: re.findall(r"\b(zds_\w+);", body)
            for version, body in re.findall(r"(\w[\w.]*)\s*\{(.*?)\}", script, re.DOTALL)}


def write_map():
    with open(MAP, "w", encoding="utf-8") as file:
        file.write("/* What libzds.so exports, and since which minor of the ABI: the functions that the headers in\n"
                   " * include/zds declare, and no other symbol. Until 1.0 is released it is written by\n"
                   f" *     {RENEW}\n"
                   " * and from then on ZDS_1.0 stays as it is: what is new goes into a node of its own, as\n"
                   " * ZDS_1.1 { global: zds_new; } ZDS_1.0; */\n"
                   "ZDS_1.0 {\nglobal:\n" +
                   "".join(f"    {name};\n" for name in functions(TODAY)) + "local:\n    *;\n};\n")


def exports(library):
    """{name: version, or "" where it has none} of what a shared object defines for others."""
    lines = subprocess.run(["nm", "-D", "--defined-only", "--with-symbol-versions", library], check=True,
                           capture_output=True, text=True).stdout.splitlines()
    names = [line.split()[-1] for line in lines if line.split()[-2] != "A"]  # A: versions themselves
    return {name: version for name, _, version in (name.partition("@@") for name in names)}


def why_no_dump(library):
    """Why there is no dump of a shared object that could be compared; "" where there is one."""
    if not shutil.which("abidw"):
        return "there is no abidw: install Debian's abigail-tools (.ci/install test)"
    sections = subprocess.run(["readelf", "-S", "-p", ".comment", library], check=True, capture_output=True,
                              text=True).stdout
    if "clang" in sections: # whose types libabigail 2.2 crashes on when it compares them with gcc's
        return f"{library} was not built by gcc"
    return "" if ".debug_info" in sections else f"{library} was built without -g"


def dump(library, include=TODAY):
    """The functions of a shared object with the types of these headers, as libabigail's XML, the same for
    every folder that it is built in."""
    text = subprocess.run(["abidw", "--headers-dir", os.path.join(include, "zds"), "--drop-private-types",
                           "--exported-interfaces-only", "--drop-undefined-syms", "--no-elf-needed",
                           "--no-architecture", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs",
                           "--no-parameter-names", "--no-write-default-sizes", "--type-id-style", "hash",
                           library], check=True, capture_output=True, text=True).stdout
    return re.sub(r"path='[^']*/core/", "path='core/", text)
