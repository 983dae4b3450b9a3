"""ZeRO-3 trains the same whatever the number of ranks that share a global batch, and wherever what is
offloaded rests: 1, 2, 3 and 4 ranks, on the host and on the test device, against one rank at stage 0.

usage: train_worlds.py FOLDER     (of the programs)
"""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

PROGRAMS = os.path.abspath(sys.argv[1])
BUILD = os.path.dirname(PROGRAMS)
PATHS = [os.path.join(BUILD, "tests", "island"), os.path.join(BUILD, "lib", "zds", "plugins")]
BATCH, STEPS = 12, 6
MODEL = {"model_type": "gpt2", "vocab_size": 256, "n_positions": 16, "n_embd": 32, "n_layer": 3,
         "n_head": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
SMALL = {"stage3_param_persistence_threshold": 100, "stage3_max_live_parameters": 20000,
         "stage3_prefetch_bucket_size": 15000}


def nvme(folder, **more):
    return {"device": "nvme", "nvme_path": folder, **more}


def cases(folder):
    """(name, zero_optimization, zds, on the device, worlds)"""
    states = {"offload_optimizer": nvme(folder)}
    parameters = {"offload_param": nvme(folder, max_in_cpu=0)}
    cpu = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    yield "plain", {}, {}, False, (1, 2, 3, 4)
    yield "small room", SMALL, {}, False, (2, 3)
    yield "states in files", states, {}, False, (1, 3, 4)
    yield "parameters in files", parameters | SMALL, {}, False, (1, 2, 3)
    yield "both", states | parameters, {}, False, (2, 4)
    yield "both, beside backward", states | parameters, {"overlap_step": True}, False, (1, 3)
    yield "device", SMALL, {}, True, (1, 2, 3, 4)
    yield "device, cpu", cpu | SMALL, {}, True, (2, 3)
    yield "device, files", states | parameters, {}, True, (1, 2)


def train(name, zero, zds, device, world, folder):
    """(losses, {name: (shape, values)})"""
    out = os.path.join(folder, "out")
    config = {"train_micro_batch_size_per_gpu": BATCH // world, "gradient_clipping": 0,
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
              "zero_optimization": zero, "zds": zds | ({"device": "test"} if device else {})}
    with open(os.path.join(folder, "ds.json"), "w") as file:
        json.dump(config, file)
    if device:
        os.environ["ZDS_PLUGIN_PATH"] = os.pathsep.join(PATHS)
    command = [os.path.join(PROGRAMS, "zds-train"), "--config_name", os.path.join(folder, "model.json"),
               "--train_file", os.path.join(folder, "text.txt"), "--deepspeed",
               os.path.join(folder, "ds.json"), "--output_dir", out, "--overwrite_output_dir",
               "--max_steps", str(STEPS), "--data_order", "sequential", "--logging_steps", "1"]
    code, _, err = golden.run(golden.ranked(PROGRAMS, world, command), timeout=120)
    os.environ.pop("ZDS_PLUGIN_PATH", None)
    if code:
        sys.exit(f"{name}, {world} ranks: exit {code}: {err[-1000:]}")
    with open(os.path.join(out, "metrics.jsonl")) as file:
        losses = [json.loads(line)["loss"] for line in file]
    return losses, golden.read_tensors(os.path.join(out, "model.safetensors"))


failures = 0
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "model.json"), "w") as file:
        json.dump(MODEL, file)
    with open(os.path.join(folder, "text.txt"), "w") as file:
        file.write("".join(f"{i * i} steps of {i} ranks; " for i in range(400)))
    losses, values = train("stage 0", {"stage": 0}, {}, False, 1, folder)
    for name, zero, zds, device, worlds in cases(folder):
        for world in worlds:
            theirs, got = train(name, {"stage": 3} | zero, zds, device, world, folder)
            loss = max(abs(a - b) / a for a, b in zip(losses, theirs, strict=True))
            gap = golden.gaps(values, got, "")[-1]
            good = loss < 1e-6 and gap < 4e-6
            failures += not good
            print("ok  " if good else "FAIL", name, world, f"{loss:.1e} {gap:.1e}", flush=True)
sys.exit(failures != 0)
