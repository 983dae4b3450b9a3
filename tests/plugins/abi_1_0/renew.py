"""Writes all that is stored of ABI 1.0 anew from the headers of today: their copies, what libzds.so
exports (core/libzds.map), and SHA256SUMS. Until 1.0 is released, and never after. usage: renew.py"""
import hashlib
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
import abi

if abi.released():
    sys.exit("renew.py: ABI 1.0 is released, and stays as it is. New fields go to the end of their "
             "struct, new functions into a node of their own in core/libzds.map; neither needs a change here")
shutil.rmtree(os.path.join(abi.FROZEN, "zds"))
shutil.copytree(os.path.join(abi.TODAY, "zds"), os.path.join(abi.FROZEN, "zds"))
abi.write_map()
with open(os.path.join(abi.FROZEN, "SHA256SUMS"), "w", encoding="utf-8") as file:
    for name, content in abi.stored().items():
        file.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
