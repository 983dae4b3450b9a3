"""Golden configs: what transformers and DeepSpeed made of 400 ds_configs, held against zds-config.

tests/data/config/golden.json: HfTrainerDeepSpeedConfig of transformers 5.23 (resolve) and
DeepSpeedConfig of 0.19.8 (effective). Each config that DeepSpeed refuses must also get an error at
the path that DeepSpeed names.
"""
import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

DATA = os.path.join(golden.DATA, "config", "golden.json")
# zds prints every 2000 steps by default; the rest means something to PyTorch modules only.
OTHER = {"steps_per_print", "leaf_module", "zenflow", "cpu_offload", "cpu_offload_param",
         "cpu_offload_use_pin_memory"}
SECTIONS = {"DeepSpeedZeroConfig": "zero_optimization.", "DeepSpeedFP16Config": "fp16.",
            "DeepSpeedBF16Config": "bf16."}


def same(a, b):
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or abs(a - b) <= 1e-9 * max(abs(a), abs(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def difference(expected, got, path=""):
    """The first key of `expected` whose value is another one in `got`, or None."""
    if not isinstance(expected, dict) or not isinstance(got, dict):
        return None if same(expected, got) else f"{path}: {got!r}, expected {expected!r}"
    for key, value in expected.items():
        if key in OTHER:
            continue
        if key not in got:
            return f"{path}.{key}: missing"
        wrong = difference(value, got[key], f"{path}.{key}")
        if wrong:
            return wrong
    return None


def zds_config(programs, command, case, folder):
    ds, arguments = os.path.join(folder, "ds.json"), os.path.join(folder, "args.json")
    with open(ds, "w") as file:
        json.dump(case["ds_config"], file)
    with open(arguments, "w") as file:
        json.dump(case["args"], file)
    line = [os.path.join(programs, "zds-config"), command, ds, "--json", "--args", arguments,
            "--world-size", str(case["world_size"]),
            "--num-training-steps", str(case["num_training_steps"])]
    if case["hidden_size"]:
        line += ["--hidden-size", str(case["hidden_size"])]
    if case["auto_find_batch_size"]:
        line.append("--auto-find-batch-size")
    code, out, err = golden.run(line, timeout=60)
    try:
        return code, json.loads(out)
    except ValueError:
        raise ValueError(f"no JSON (exit {code}): {err[:200]}") from None


def check_resolve(programs, case, folder):
    expected = case["expect"]["resolve"]
    if isinstance(case["ds_config"].get("zero_optimization"), bool):
        return None  # a TypeError in transformers; DeepSpeed and zds read it
    code, got = zds_config(programs, "resolve", case, folder)
    if got["status"] != expected["status"] or code != ["ok", "error", "", "mismatch"].index(
            got["status"]):
        return f"{got['status']} (exit {code}), expected {expected['status']}"
    if got["status"] == "mismatch":
        keys = [line.split("=")[0].removeprefix("- ds ") for line in expected["mismatches"]]
        found = [row["ds_key"] for row in got["mismatches"]]
        return None if keys == found else f"mismatches {found}, expected {keys}"
    if got["status"] == "error":
        return None
    # Both ways: what was resolved has nothing more and nothing less.
    return (difference(expected["resolved"], got["resolved"])
            or difference(got["resolved"], expected["resolved"])
            or difference({k: expected[k] for k in ("dtype", "is_zero2", "is_zero3",
                                                    "is_offload")}, got))


def paths_of(error):
    """The paths that DeepSpeed's message names, where it names any."""
    match = re.search(r"errors? for (\w+) (\S+) ", error)
    if match and match[1] in SECTIONS and re.match(r"[a-z_0-9.]+$", match[2]):
        return [SECTIONS[match[1]] + match[2]]
    return re.findall(r"the '(\w+)' configuration block|'(zero_optimization\.\w+)' is no longer",
                      error)


def check_effective(programs, case, folder):
    expected = case["expect"]["engine"]
    code, got = zds_config(programs, "effective", case, folder)
    if got["status"] != expected["status"] or code != (got["status"] != "ok"):
        return f"{got['status']} {got['errors']}, expected {expected['status']}"
    if got["status"] == "ok":
        return difference(expected["values"], got["values"])
    for path in paths_of(expected["error"].replace("\n", " ")):
        path = path if isinstance(path, str) else "".join(path)
        if path not in [error["path"] for error in got["errors"]]:
            return f"no error at {path}: {got['errors']}"
    silent = [e for e in got["errors"] if not e["path"] or not e["line"] or len(e["message"]) < 8]
    return f"errors without place or text: {silent}" if silent else None


def check(case, programs, folder):
    wrong = check_resolve(programs, case, folder)
    if wrong:
        return "resolve: " + wrong
    if case["expect"]["engine"]["status"] != "unreached":
        wrong = check_effective(programs, case, folder)
    return "effective: " + wrong if wrong else None


if __name__ == "__main__":
    sys.exit(golden.run_cases(DATA, check))
