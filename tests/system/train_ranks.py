"""zds-train: ranks that were given different things end with an error that names what differs.

usage: train_ranks.py FOLDER     (of the programs)
"""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

PROGRAMS = os.path.abspath(sys.argv[1])
TRAIN = os.path.join(PROGRAMS, "zds-train")
MODEL = {"model_type": "gpt2", "vocab_size": 256, "n_positions": 16, "n_embd": 8, "n_layer": 1,
         "n_head": 2, "activation_function": "relu", "attn_pdrop": 0.0}
OTHERS = [  # a change of rank 1's model or flags, and what the error must name
    ({"n_head": 4}, [], "config.json"),
    ({"activation_function": "gelu"}, [], "config.json"),
    ({"attn_pdrop": 0.5}, [], "config.json"),
    ({"n_layer": 2}, [], "model"),
    ({}, ["--max_steps", "3"], "steps of the run"),
    ({}, ["--block_size", "8"], "--block_size"),
    ({}, ["--data_order", "sequential"], "--data_order"),
    ({}, ["--generate", "4"], "--generate"),
    ({}, ["--train_file", "longer.txt"], "--train_file"),
    ({}, ["--train_file", "other.txt"], "--train_file"),
    ({}, ["--seed", "7"], "seed"),
]


def write(name, text):
    with open(name, "w") as file:
        file.write(text)


def run(change, flags):
    write("model1.json", json.dumps({**MODEL, **change}))
    write("flags1", "\n".join(flags))
    code = ('exec "$0" --config_name model$RANK.json --train_file text.txt --deepspeed ds.json '
            '--output_dir out --max_steps 2 $(cat flags$RANK)')
    return golden.run(golden.ranked(PROGRAMS, 2, ["sh", "-c", code, TRAIN]), timeout=60)


failures = 0
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    write("text.txt", "some text " * 20)
    write("longer.txt", "some text " * 21)
    write("other.txt", "same text " * 20)
    write("model0.json", json.dumps(MODEL))
    write("flags0", "")
    write("ds.json", '{"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW"}}')
    for change, flags, named in OTHERS:
        code, _, err = run(change, flags)
        good = (code == 1 and "rank 1 and rank 0 have a different" in err and named in err
                and not os.path.exists("out"))
        failures += not good
        print("ok  " if good else "FAIL", change, *flags, "" if good else (code, err), flush=True)
    code, _, err = run({}, [])
    failures += code != 0
    print("FAIL" if code else "ok  ", "the same on both ranks", err if code else "")
sys.exit(failures > 0)
