"""How programs of one and several ranks end: a plugin that calls exit does not look like success, what
fails on all ranks alike is told once, and what fails on one rank alone is told by that one.
usage: endings.py FOLDER_OF_PROGRAMS"""
import json
import os
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

PROGRAMS = os.path.abspath(sys.argv[1])
EXITS = os.path.join(os.path.dirname(PROGRAMS), "tests", "plugins", "exits_in_step.so")
GPT2 = {"model_type": "gpt2", "vocab_size": 256, "n_positions": 8, "n_embd": 16, "n_layer": 1,
        "n_head": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
failed = 0


def expect(good, what, seen):
    global failed
    print(f"{'ok  ' if good else 'FAIL'} {what}{'' if good else ': ' + str(seen)[-900:]}", flush=True)
    failed += not good


def write(folder, name, value):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        json.dump(value, file)
    return path


def prepare(folder):
    for name in ("init", *(f"m{step:03d}.r{rank}" for step in range(2) for rank in range(2))):
        golden.write_tensors(os.path.join(folder, name + ".safetensors"), {"w": ([64], [0.5] * 64)})
    write(folder, "model.json", GPT2)
    with open(os.path.join(folder, "text"), "wb") as file:
        file.write(bytes(range(32, 127)) * 4)


def commands(folder, config, steps=2):
    def at(name):
        return os.path.join(folder, name)
    return {
        "zds-replay": ["--config", config, "--params", at("init.safetensors"), "--grads", folder,
                       "--micro-steps", str(steps), "--out", at("out.safetensors")],
        "zds-train": ["--deepspeed", config, "--config_name", at("model.json"), "--train_file",
                      at("text"), "--block_size", "4", "--max_steps", str(steps), "--output_dir",
                      at("out"), "--overwrite_output_dir"],
        "zds-bench": ["step", "--config", config, "--params", "100k", "--tensors", "2", "--steps",
                      "3", "--threads", "2"]}


def run(program, words, ranks):
    return golden.run(golden.ranked(PROGRAMS, ranks, [os.path.join(PROGRAMS, program), *words]), 60)


def ds(optimizer, **params):
    return {"train_micro_batch_size_per_gpu": 1,
            "optimizer": {"type": optimizer, "params": params}}


def exits(folder):
    """One line, of whoever called exit, however many threads and ranks did so at once."""
    config = write(folder, "exits.json", ds(EXITS))
    for program, words in commands(folder, config).items():
        for ranks in (1, 2):
            code, _, err = run(program, words, ranks)
            expect(code == 1 and err.count(EXITS + " called exit") == 1,
                   f"{program}, {ranks} ranks: exit in a step is a failure", (code, err))
    expect(not os.path.exists(os.path.join(folder, "out.safetensors")), "and leaves no result", "")


def alike(folder):
    """Wrong options, what a plugin refuses, and a wrong config, on two ranks."""
    for name, config, text in (
            ("option", ds("AdamW", lr=-1), "optimizer.params.lr: "),
            ("refusal", ds("OneBitAdam", amsgrad=True), "have no amsgrad variant"),
            ("config", {**ds("AdamW"), "zero_optimization": {"stage": 7}}, "7 is out of range")):
        path = write(folder, name + ".json", config)
        for program, words in commands(folder, path).items():
            code, _, err = run(program, words, 2)
            expect(code == 1 and err.count(text) == 1 and "rank 1:" not in err,
                   f"{program}: a wrong {name} is told once", (code, err))


def alone(folder):
    """Rank 1 misses its second file: it tells so, and rank 0 does not end as if all were well."""
    os.remove(os.path.join(folder, "m001.r1.safetensors"))
    words = commands(folder, write(folder, "good.json", ds("AdamW")))["zds-replay"]
    code, _, err = run("zds-replay", words, 2)
    expect(code == 1 and "rank 1: " in err and "m001.r1.safetensors: No such file" in err,
           "zds-replay: what fails on rank 1 alone is told by rank 1", (code, err))
    code, _, err = run("zds-replay", commands(folder, os.path.join(folder, "good.json"), 1)
                       ["zds-replay"], 2)
    expect(code == 0 and not err, "zds-replay: what goes well ends well", (code, err))


def unaided(program, words, port):
    """Two ranks that no launcher ends when one of them fails: what each says."""
    ranks = [subprocess.Popen(
        [os.path.join(PROGRAMS, program), *words], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RANK": str(r), "WORLD_SIZE": "2", "LOCAL_RANK": str(r),
             "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(port), "ZDS_TIMEOUT": "40"})
        for r in range(2)]
    return [(rank.communicate(timeout=60)[1], rank.returncode) for rank in ranks]


def told(folder):
    """What one rank finds in its own files, the other hears from it."""
    config = write(folder, "good.json", ds("AdamW"))
    words = commands(folder, config)
    with open(os.path.join(folder, "ids"), "wb") as file:  # rank 1 reads the second block
        file.write(struct.pack("<40H", *([7] * 5), *([300] * 4), *([7] * 31)))
    train = words["zds-train"]
    train[train.index("--train_file") + 1] = os.path.join(folder, "ids")
    train += ["--token_dtype", "u16", "--data_order", "sequential"]
    port = 20000 + os.getpid() % 20000
    for program, text in (("zds-replay", "m001.r1.safetensors: No such file"),
                          ("zds-train", "token 5 is 300")):
        port += 1
        (heard, first), (said, second) = unaided(program, words[program], port)
        expect(first == second == 1 and text in said and text in heard and
               "closed the communicator" not in heard,
               f"{program}: what fails on rank 1 alone is told to rank 0", (heard, said))


with tempfile.TemporaryDirectory() as home:
    prepare(home)
    exits(home)
    alike(home)
    alone(home)
    told(home)
sys.exit(1 if failed else 0)
