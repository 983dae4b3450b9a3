"""The public interface as its headers declare it, today and in the frozen copy of ABI 1.0
(tests/plugins/abi_1_0)."""
import os
import re

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TODAY = os.path.join(SOURCE, "include")
FROZEN = os.path.join(SOURCE, "tests", "plugins", "abi_1_0")
RENEW = "tests/plugins/abi_1_0/renew.py"


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
    return {f"zds/{name}": read(FROZEN, name) for name in headers(FROZEN)}


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
