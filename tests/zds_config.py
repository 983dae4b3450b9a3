"""What the tests of zds-config share: running it on a text, and counting what was expected."""
import os
import subprocess
import sys
import tempfile

PROGRAM = os.path.join(os.path.abspath(sys.argv[1]), "zds-config")
failed = 0


def expect(good, what, seen=""):
    global failed
    print(f"{'ok  ' if good else 'FAIL'} {what}{'' if good else ': ' + str(seen)[:400]}")
    failed += not good


def run(*words, text=None):
    """(exit code, stdout, stderr); `text` becomes the file that '@' stands for."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ds.json")
        if text is not None:
            with open(path, "w") as file:
                file.write(text)
        line = [PROGRAM] + [path if word == "@" else word for word in words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.replace(path, "@"), done.stderr.replace(path, "@")


def end():
    sys.exit(1 if failed else 0)
