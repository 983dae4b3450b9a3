"""docs/replay.md as written: its scripts record gradients of an optimizer in PyTorch, zds-replay runs them through the example
plugin, built here, and the comparison finds rounding only; a wrong rate is found. Needs a python with torch and safetensors:
ZDS_TEST_PYTHON, or the one that runs this; without one, or without a C compiler, the test is skipped.
usage: replay_record.py FOLDER_OF_PROGRAMS"""
import os, re, shutil, subprocess, sys, tempfile

BIN = os.path.abspath(sys.argv[1])
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, os.pardir)
PYTHON = os.environ.get("ZDS_TEST_PYTHON", sys.executable)
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
failures = 0


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail else ""), flush=True)


def run(*command, folder):
    env = dict(os.environ, PATH=BIN + os.pathsep + os.environ["PATH"])
    p = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return p.returncode, p.stdout, p.stderr


def own_adamw(folder):
    """torch's AdamW in the original's place, zds's in the plugin's."""
    with open(f"{folder}/record.py") as f:
        script = f.read()
    script = re.sub(r"class Lion.*?\n\n", "", script, flags=re.S)
    script = re.sub(r"Lion\(.*\)", "torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)", script)
    with open(f"{folder}/record.py", "w") as f:
        f.write(script)
    code, _, err = run(PYTHON, "record.py", folder=folder)
    check("record.py with torch.optim.AdamW", code == 0 and "Lion" not in script, err)
    config = re.sub(r'"\./my_lion.so".*', '"AdamW", "params": {"lr": 1e-3, "weight_decay": 0.1}}', blocks["json"][0])
    worst = compared(folder, config)
    check("AdamW is torch's, up to rounding", worst < 2e-6, f"{worst:.3g}")


def compared(folder, config):
    """The largest difference that compare.py prints."""
    with open(f"{folder}/ds.json", "w") as f:
        f.write(config)
    code, _, err = run("sh", "-c", blocks["sh"][0], folder=folder)
    if code:
        return check("zds-replay", False, err) or float("nan")
    code, out, err = run(PYTHON, "compare.py", folder=folder)
    rows = [line.split() for line in out.splitlines()]
    states = {r[0].split(".")[0] for r in rows} - {"param"}
    check("compare.py: 4 parameters and their states", code == 0 and len(rows) == 4 * (1 + len(states)), out + err)
    return max(float(r[1]) for r in rows)


if subprocess.run([PYTHON, "-c", "import torch, safetensors.torch"], capture_output=True).returncode or not CC:
    print("skipped: no python with torch and safetensors (ZDS_TEST_PYTHON), or no C compiler")
    sys.exit(77)
with open(f"{ROOT}/docs/replay.md") as f:
    text = f.read()
blocks = {kind: re.findall(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("python", "json", "sh")}
with tempfile.TemporaryDirectory() as folder:
    for script in blocks["python"]:
        with open(f"{folder}/{re.match(r'...([a-z]+.py):', script).group(1)}", "w") as f:
            f.write(script)
    code, _, err = run(CC, "-O2", "-fPIC", "-shared", f"-I{ROOT}/include", f"{ROOT}/examples/plugin/my_lion.c", "-o", "my_lion.so", "-lm",
                       folder=folder)
    check("the example plugin builds", code == 0, err)
    code, _, err = run(PYTHON, "record.py", folder=folder)
    check("record.py", code == 0 and len(os.listdir(f"{folder}/grads")) == 20, err)
    worst = compared(folder, blocks["json"][0])
    check("the plugin is the original, up to rounding", worst < 2e-6, f"{worst:.3g}")
    worst = compared(folder, blocks["json"][0].replace("1e-3", "1.01e-3"))
    check("another rate is found", worst > 1e-5, f"{worst:.3g}")
    own_adamw(folder)
sys.exit(failures > 0)
