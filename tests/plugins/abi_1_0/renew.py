"""Writes all that is stored of ABI 1.0 anew from the headers of today: their copies, what libzds.so exports
(core/libzds.map), a dump of its types (libzds.abi, of a build by gcc, which is brought up to date),
SHA256SUMS, and behind the last line of CHANGES, which says what has changed, the headers' stamp. Until 1.0 is released, and never after. usage: renew.py BUILD_FOLDER"""
import hashlib
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
import abi

if len(sys.argv) != 2:
    sys.exit(__doc__)
if abi.released():
    sys.exit("renew.py: ABI 1.0 is released, and stays as it is. New fields go to the end of their struct, new "
             "functions into a node of their own in core/libzds.map; neither needs a change here")
said, told = abi.changes()[-1]
if told not in ("", abi.stamp(abi.TODAY)):
    sys.exit(f"renew.py: the headers are not those of the last line of {os.path.relpath(abi.CHANGES, abi.SOURCE)}: add a line "
             f"that says what has changed since, or take [{told}] off the last one where it says that, too")
shutil.rmtree(os.path.join(abi.FROZEN, "zds"))
shutil.copytree(os.path.join(abi.TODAY, "zds"), os.path.join(abi.FROZEN, "zds"))
abi.write_map()
subprocess.run(["cmake", "--build", sys.argv[1], "--target", "zds"], check=True)
library = os.path.join(sys.argv[1], "lib", "libzds.so")
why = abi.why_no_dump(library)
if why:
    sys.exit(f"renew.py: libzds.abi and SHA256SUMS are not written: {why}")
with open(abi.DUMP, "w", encoding="utf-8") as file:
    file.write(abi.dump(library))
if not told:
    with open(abi.CHANGES, encoding="utf-8") as file:
        text = file.read().rstrip("\n")
    with open(abi.CHANGES, "w", encoding="utf-8") as file:
        file.write(f"{text} [{abi.stamp(abi.TODAY)}]\n")
with open(os.path.join(abi.FROZEN, "SHA256SUMS"), "w", encoding="utf-8") as file:
    for name, content in abi.stored().items():
        file.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
