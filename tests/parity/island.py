"""Golden gradients through an engine whose memory is on the island, a device without hardware, leave the host's bits."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

REPLAY = os.path.join(golden.DATA, "replay")


def outcome(case, programs, folder, zds):
    """The file and the metrics of a run."""
    config, out, metrics = (os.path.join(folder, name) for name in ("ds.json", "out.safetensors", "metrics.json"))
    with open(config, "w") as file:
        json.dump(case["ds_config"] | {"zds": case["ds_config"].get("zds", {}) | zds}, file)
    command = [os.path.join(programs, "zds-replay"), "--config", config,
               "--params", os.path.join(REPLAY, "init.safetensors"),
               "--grads", os.path.join(REPLAY, "grads", case["grads"]),
               "--micro-steps", str(case["micro_steps"]), "--out", out, "--metrics", metrics]
    code, _, err = golden.run(golden.ranked(programs, case["world_size"], command), timeout=120)
    if code:
        raise ValueError(f"exit {code}: {err[-500:]}")
    with open(metrics) as file:
        return golden.read_tensors(out), json.load(file)


def check(case, programs, folder):
    os.environ["ZDS_PLUGIN_PATH"] = os.path.join(os.path.dirname(programs), "tests", "island")
    host = outcome(case, programs, folder, {})
    # Work of streams that may overtake each other does so in another way with every seed.
    island = outcome(case, programs, folder, {"device": "test", "tiers": {"test": {"params": {"seed": 7}}}})
    if host[1] != island[1]:
        return f"metrics: {island[1]}, on the host {host[1]}"
    others = sorted(n for n in host[0] if n not in island[0] or host[0][n] != island[0][n])
    return f"other bits than on the host: {others}" if others or host[0].keys() != island[0].keys() else None


sys.exit(golden.run_cases(os.path.join(REPLAY, "cases.json"), check))
