"""libzds.so exports the functions that the public headers declare, each under the version that
core/libzds.map gives it, and nothing else; its name for the loader has the ABI's major.
usage: abi_symbols.py FOLDER_OF_PROGRAMS"""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import abi
from installed import expect

library = os.path.join(os.path.dirname(os.path.abspath(sys.argv[1])), "lib", "libzds.so")


def differ(got, wanted, names):
    """What two sets of names have not in common, in words."""
    return "".join(f"\n      {name}: {what}" for what, some in
                   zip(names, (wanted - got, got - wanted)) for name in sorted(some))


exported, nodes, declared = abi.exports(library), abi.nodes(), set(abi.functions(abi.TODAY))
difference = differ(set(exported), declared, ("declared in include/zds, not exported",
                                              "exported, and no header declares it"))
expect(len(declared) > 100 and not difference, f"libzds.so exports the {len(declared)} functions of its "
       f"headers{difference and f', but (core/libzds.map is written by {abi.RENEW}):'}{difference}")
wrong = {name: version for name, version in exported.items() if name not in nodes.get(version, [])}
expect(not wrong, f"each under the version that core/libzds.map says {wrong or ''}")
difference = differ(set(nodes.get("ZDS_1.0", [])), set(abi.functions(abi.FROZEN)),
                    ("in the frozen headers, not of ZDS_1.0", "of ZDS_1.0, not in the frozen headers"))
expect(not difference, f"ZDS_1.0 is what the frozen headers declare{difference}")
major = re.search(r"#define ZDS_ABI_MAJOR (\d+)", abi.text(abi.TODAY)).group(1)
told = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
name = re.search(r"SONAME.*\[(.*)\]", told).group(1)
expect(name == f"libzds.so.{major}", f"the loader finds it as {name}")
