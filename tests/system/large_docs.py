"""The ds_config of docs/large_models.md is clean, and trains. usage: large_docs.py FOLDER_OF_PROGRAMS"""
import json
import os
import re
import subprocess
import sys
import tempfile

BIN = os.path.abspath(sys.argv[1])
PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "large_models.md")

with open(PAGE) as file:
    blocks = re.findall(r"```json\n(.*?)```", file.read(), re.S)
good = len(blocks) == 1
with tempfile.TemporaryDirectory() as folder:
    text = blocks[0].replace("/local_nvme", folder)
    path = os.path.join(folder, "ds.json")
    with open(path, "w") as file:
        file.write(text)
    files = set(os.listdir(folder))
    commands = [[f"{BIN}/zds-config", "check", path]]
    step = [f"{BIN}/zds-bench", "step", "--config", path, "--params", "300000", "--tensors", "5", "--steps", "4", "--json"]
    commands += [[f"{BIN}/zds-run", "-n", str(ranks)] + step for ranks in (1, 2)]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        fine = done.returncode == 0 and set(os.listdir(folder)) == files
        fine = fine and (not done.stdout or json.loads(done.stdout)["params"] == 300000)
        good &= fine
        print(("ok   " if fine else "FAIL ") + " ".join(command[:4]), done.stderr[-300:])
sys.exit(0 if good else 1)
