"""docs/architecture.md holds: who may include whom, as its block of layers says; and the files and names
that it speaks of are there."""
import glob
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, expect

os.chdir(SOURCE)
with open(os.path.join("docs", "architecture.md")) as page:
    PAGE = page.read()
# For the files of their own folder alone.
PRIVATE = {"config/internal.h", "engine/internal.h", "zero/parts.h", "zero/stream.h", "memory/tier_call.h"}


def sources(folder):
    return sorted(path for ending in "ch"
                  for path in glob.glob(f"{folder}/**/*.{ending}", recursive=True))


def includes(path):
    with open(path) as file:
        return re.findall(r'^ *# *include *[<"]([^">]+)[">]', file.read(), re.MULTILINE)


def read_layers():
    block = re.search(r"^```layers\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE).group(1)
    return {name: set(behind.split()) for name, behind in
            (line.split(":") for line in block.splitlines())}


def report(wrong, what):
    expect(not wrong, "; ".join([what] + wrong))


def check_core(layers):
    folders = {name for name in os.listdir("core") if os.path.isdir(os.path.join("core", name))}
    expect(folders == set(layers), f"the page's layers are the folders of core: {sorted(folders)}")
    above, inside = [], []
    for path in sources("core"):
        own = path.split("/")[1]
        for name in includes(path):
            folder = name.split("/")[0]
            if folder in layers and folder != own and folder not in layers[own]:
                above.append(f"{path} includes {name}")
            if name in PRIVATE and folder != own:
                inside.append(f"{path} includes {name}")
    report(above, "no layer of core includes what is not behind it")
    report(inside, "headers of one folder's own stay there")
    ends = {name for name, behind in layers.items() if not behind}
    while ends != set(layers):
        more = {name for name, behind in layers.items() if behind <= ends}
        expect(more > ends, f"layers go one way: above {sorted(ends)}")
        ends = more


def check_others(layers):
    wrong = [f"{path} includes {name}" for path in sources("plugins") for name in includes(path)
             if name.split("/")[0] in layers or
             (name.startswith("zds/") and name not in ("zds/plugin.h", "zds/types.h"))]
    report(wrong, "plugins include zds/plugin.h, and files of plugins")
    wrong = []
    for path in sources("apps") + sources("examples"):
        allowed = {"plugin", "host"} if path.startswith("apps/zds-plugins/") else set()
        for name in includes(path):
            if os.path.exists(os.path.join("core", name)) and name.split("/")[0] not in allowed and \
                    not (allowed and name == "zero/hooks.h"):
                wrong.append(f"{path} includes {name}")
    report(wrong, "programs include zds's public headers; zds-plugins core/plugin, core/host and hooks too")
    wrong = [f"{path} includes {name}" for path in sources("include") for name in includes(path)
             if "/" in name and not name.startswith("zds/")]
    report(wrong, "public headers include public headers")


def check_names():
    told = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE))
    code = ""
    for path in [path for folder in ("core", "include", "apps", "plugins", "tests")
                 for path in sources(folder)]:
        with open(path) as file:
            code += file.read()
    words = set(re.findall(r"\w+", code))
    missing = []
    for text in told:
        if re.fullmatch(r"[\w*./-]+\.(c|h|py|cmake|md)", text):
            if not any(glob.glob(base + text) for base in ("", "core/", "include/")):
                missing.append(text)
        elif re.fullmatch(r"[\w.>-]+", text) and "_" in text:
            missing += [text for word in re.findall(r"\w+", text) if word not in words]
    report(missing, "files and names that the page speaks of are there")
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE)
             if not os.path.exists(os.path.join("docs", link))]
    report(links, "its links lead somewhere")


def check_words():
    """Words for which the page's table has others, where it has them as code."""
    table = PAGE[PAGE.index("\n## Words\n"):]
    others = [other for row in re.findall(r"^\|.*\|(.*)\|$", table, re.MULTILINE)
              for other in re.findall(r"`([^`]+)`", row)]
    expect(others, f"words that are not used: {', '.join(others)}")
    pattern = re.compile("|".join(rf"(?<![a-z]){other}(?![a-rt-z])" for other in others))
    wrong = []
    for path in [path for folder in ("core", "include", "plugins") for path in sources(folder)]:
        with open(path) as file:
            wrong += [f"{path}:{number} has '{found.group()}'" for number, line in enumerate(file, 1)
                      for found in [pattern.search(line)] if found]
    report(wrong, "they are not")


LAYERS = read_layers()
check_core(LAYERS)
check_others(LAYERS)
check_names()
check_words()
