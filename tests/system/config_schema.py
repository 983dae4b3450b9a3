"""zds-config schema: it agrees with zds-config check, on golden configs and on right and wrong
options of every optimizer and schedule, and an editor finds in it what it offers to complete."""
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

try:
    import jsonschema
except ImportError:
    print("skip: no jsonschema here")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.abspath(sys.argv[1])
failed = 0


def expect(good, what, seen=""):
    global failed
    print(f"{'ok  ' if good else 'FAIL'} {what}{'' if good else ': ' + str(seen)[:600]}")
    failed += not good


def run(program, *words):
    return subprocess.run([os.path.join(PROGRAMS, program), *words], capture_output=True, text=True,
                          timeout=60).stdout


SCHEMA = json.loads(run("zds-config", "schema"))
jsonschema.Draft202012Validator.check_schema(SCHEMA)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
# What zds-config says of a key, a type or a range; the rest are rules between keys.
WORDS = re.compile("unknown key|is not a|out of range|among the choices|removed|not finite"
                   "|is not an|not a section|too large|is no option|must be .*, not |has no default"
                   "|chooses how PyTorch|write gradient_clipping")


def faults_of(config):
    """What zds-config and what the schema have against it."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        out = json.loads(run("zds-config", "check", file.name, "--json"))
    return ([p["message"] for p in out["errors"] if WORDS.search(p["message"])],
            [e.message for e in VALIDATOR.iter_errors(config)])


def plugins(kind):
    for row in json.loads(run("zds-plugins", "--list", "--kind", kind, "--json")):
        if row["status"] == "ok":
            info = json.loads(run("zds-plugins", "--info", row["name"], "--json"))
            # told by a rule of its own: write gradient_clipping
            info["options"] = [o for o in info["options"] if o["name"] != "max_grad_norm"]
            yield info, row["aliases"]


def golden_configs():
    with open(os.path.join(HERE, "..", "data", "config", "golden.json")) as file:
        cases = json.load(file)["cases"]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(faults_of, [case["ds_config"] for case in cases]))
    other = [(case["id"], *f) for case, f in zip(cases, found) if bool(f[0]) != bool(f[1])]
    expect(not other, f"agrees with check on {len(cases)} golden configs", other[:3])


def names_of_tiers():
    """A name that stands in zds.tiers is a device; no other is."""
    for tiers, right in (({}, False), ({"tiers": {"slow": {"type": "cpu"}}}, True)):
        for section in ("offload_optimizer", "offload_param"):
            found = faults_of({"train_batch_size": 8, "zds": tiers,
                               "zero_optimization": {"stage": 1, section: {"device": "slow"}}})
            expect((not found[0], not found[1]) == (right, right),
                   f"{section}: a name that stands in {tiers}", found)


def right_value(option):
    """One that the option takes: its default, else one in its range."""
    if option["default"] is not None:
        return option["default"]
    if option["type"] in ("float", "int"):
        return option["min"] + 1 if option["min"] is not None else 1
    if option["type"] == "enum":
        return option["choices"].split("|")[0]
    if option["type"] == "floats":
        return [0.5] * option["count"]
    return {"bool": True, "string": "x", "float_list": [0.5]}[option["type"]]


def wrong_values(option):
    """Of another type; past each end of the range; not among the choices; too long."""
    kind = option["type"]
    yield {}
    if kind != "string":
        yield "no such word"
    if kind in ("bool", "string", "enum"):
        yield 3
    if kind == "int":
        yield 1.5
    if kind == "floats":
        yield [0.5] * (option["count"] + 1)
    if kind == "float_list":
        yield []
    if kind in ("int", "float"):
        yield True
        if option["min"] is not None:
            yield option["min"] - 1
        if option["max"] is not None:
            yield option["max"] + 1


def right_and_wrong(info, aliases):
    """(name, params, whether they are right)"""
    name = info["name"]
    right = {o["name"]: right_value(o) for o in info["options"]}
    yield name, right, True
    for other in [*aliases, name.swapcase()]:
        yield other, right, True
        yield other, {**right, "no_such_option": 1}, False
    yield name, {**right, "foreach": False, "fused": None}, True
    yield name, {**right, "foreach": True}, False
    for option in info["options"]:
        for value in wrong_values(option):
            yield name, {**right, option["name"]: value}, False
        if option["required"]:
            yield name, {k: v for k, v in right.items() if k != option["name"]}, False
        if option["auto_from"]:
            yield name, {**right, option["name"]: "auto"}, True


def options_of_plugins(section, kind):
    cases = [case for plugin in plugins(kind) for case in right_and_wrong(*plugin)]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda case: faults_of(
            {"train_batch_size": 8, section: {"type": case[0], "params": case[1]}}), cases))
    wrong = [(case, f) for case, f in zip(cases, found)
             if bool(f[0]) == case[2] or bool(f[1]) == case[2]]
    expect(len(cases) > 50 and not wrong, f"{section}: {len(cases)} right and wrong options",
           wrong[:4])


def completions(schema, value, path):
    """The keys that an editor offers at a path of `value`: as VS Code's JSON service finds them, from
    properties, references, and the branches that apply."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return completions(SCHEMA["$defs"][name], value, path)
    found = set()
    for part in schema.get("allOf", []) + schema.get("anyOf", []):
        found |= completions(part, value, path)
    if "if" in schema:
        applies = jsonschema.Draft202012Validator(schema["if"]).is_valid(value)
        found |= completions(schema.get("then" if applies else "else", {}), value, path)
    if not path:
        return found | {key for key, row in schema.get("properties", {}).items() if row}
    if path[0] in schema.get("properties", {}):
        found |= completions(schema["properties"][path[0]], value.get(path[0], {}), path[1:])
    return found


def what_an_editor_offers():
    offered = completions(SCHEMA, {}, ["zero_optimization", "offload_optimizer"])
    expect({"device", "pin_memory"} <= offered, "keys of a section", offered)
    for section, kind in (("optimizer", "optim"), ("scheduler", "sched")):
        type_schema = SCHEMA["properties"][section]["properties"]["type"]
        words = {form["const"]: form for form in type_schema["anyOf"] if "const" in form}
        for info, aliases in plugins(kind):
            names = [info["name"], *aliases]
            expect(all(info["doc"] in words[n]["description"] for n in names),
                   f"{section}.type: {', '.join(names)}", sorted(words))
            for name in (*names, info["name"].upper()):
                config = {section: {"type": name, "params": {}}}
                expect(completions(SCHEMA, config, [section, "params"])
                       == {o["name"] for o in info["options"]}, f"{section}.params of {name}")
            rows = SCHEMA["$defs"][f"{kind}.{info['name']}"]["properties"]
            bad = [o["name"] for o in info["options"]
                   if not rows[o["name"]]["description"].startswith(o["doc"])
                   or (not o["required"] and rows[o["name"]]["default"] != o["default"])]
            expect(not bad, f"{info['name']}: docs and defaults of options", bad)
    mine = {"train_batch_size": 8, "optimizer": {"type": "/home/me/mine.so", "params": {"a": 1}}}
    expect(VALIDATOR.is_valid(mine), "any options of a plugin that is not there")


def names_its_schema():
    config = {"$schema": "./ds_config.schema.json", "train_batch_size": 8}
    ours, theirs = faults_of(config)
    expect((ours, theirs) == ([], []), "$schema is a key", (ours, theirs))


for test in (golden_configs, names_of_tiers, what_an_editor_offers, names_its_schema):
    test()
options_of_plugins("optimizer", "optim")
options_of_plugins("scheduler", "sched")
sys.exit(1 if failed else 0)
