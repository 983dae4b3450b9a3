"""A model trained by zds-train loads in transformers and has the same loss there on the same text; a model that transformers
saves in fp16, bf16 and shards trains on. Needs a python with torch and transformers: ZDS_TEST_PYTHON, or the one that runs this;
without one the test is skipped. usage: train_transformers.py FOLDER_OF_PROGRAMS"""
import json, os, random, subprocess, sys, tempfile

BIN = os.path.abspath(sys.argv[1])
PYTHON = os.environ.get("ZDS_TEST_PYTHON", sys.executable)
ENV = dict(os.environ, HF_HUB_OFFLINE="1")
failures = 0
WORKER = r'''
import sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
mode, folder = sys.argv[1:3]
if mode == "loss":      # of the first rows in order, as --data_order sequential takes them
    text, rows, block = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    model, report = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    data = torch.tensor(list(open(text, "rb").read()))
    x = torch.stack([data[i * block:i * block + block + 1] for i in range(rows)])
    with torch.no_grad():
        logits = model.eval()(input_ids=x[:, :-1]).logits
    print(float(torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).double(), x[:, 1:].reshape(-1))))
else:                   # save a fresh model in some dtype and shard size
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, tie_word_embeddings=mode != "untied")
    model = GPT2LMHeadModel(config)
    if mode in ("float16", "bfloat16"):
        model = model.to(getattr(torch, mode))
    model.save_pretrained(folder, max_shard_size="40KB" if mode == "shards" else "1GB")
'''


def python(*args):
    return subprocess.run([PYTHON, "-c", WORKER, *args], env=ENV, capture_output=True, text=True)


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + name + (f": {detail}" if detail else ""), flush=True)


def train(start, out, text, steps, **ds):
    config = dict(train_micro_batch_size_per_gpu=4, gradient_accumulation_steps=1, zero_optimization=dict(stage=0),
                  optimizer=dict(type="AdamW", params=dict(lr=1e-3)), **ds)
    p = subprocess.run([f"{BIN}/zds-train", *start, "--train_file", text, "--deepspeed", json.dumps(config), "--output_dir", out,
                        "--max_steps", str(steps), "--data_order", "sequential"], capture_output=True, text=True)
    if p.returncode:
        check(f"zds-train {' '.join(start)}", False, p.stderr[-400:])
        return None
    return [json.loads(line)["loss"] for line in open(f"{out}/metrics.jsonl")]


if subprocess.run([PYTHON, "-c", "import torch, transformers"], env=ENV, capture_output=True).returncode:
    print(f"skipped: {PYTHON} has no torch and transformers (ZDS_TEST_PYTHON names another python)")
    sys.exit(77)
with tempfile.TemporaryDirectory() as t:
    text = f"{t}/text"
    rng = random.Random(2)
    with open(text, "w") as f:
        f.write(" ".join(rng.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(2000)))
    for mode in ("float32", "float16", "bfloat16", "shards", "untied"):
        made = python(mode, f"{t}/{mode}")
        if made.returncode:
            check(f"{mode}: transformers saves a model", False, made.stderr[-400:])
            continue
        start = ["--model_name_or_path", f"{t}/{mode}"]
        losses = train(start, f"{t}/{mode}.out", text, 1)
        theirs = python("loss", f"{t}/{mode}", text, "4", "32")
        if losses and not theirs.returncode:
            off = abs(losses[0] - float(theirs.stdout))
            check(f"{mode}: the same loss before training", off < 2e-6, f"{losses[0]:.7f}, off by {off:.1e}")
        else:
            check(f"{mode}: loss before training", False, theirs.stderr[-400:])
    for name, extra, tolerance in (("fp32", {}, 2e-6), ("bf16", dict(bf16=dict(enabled=True)), 2e-5)):
        out = f"{t}/{name}"
        if not train(["--model_name_or_path", f"{t}/float32"], out, text, 30, **extra):
            continue
        ours = train(["--model_name_or_path", out], f"{out}.again", text, 1, **extra)
        theirs = python("loss", out, text, "4", "32")
        if not ours or theirs.returncode:
            check(f"{name}: loads in transformers", False, theirs.stderr[-400:])
            continue
        off = abs(ours[0] - float(theirs.stdout))
        check(f"{name}: trained here, the same loss in transformers", off < tolerance, f"{ours[0]:.7f}, off by {off:.1e}")
print(f"{failures} failures")
sys.exit(1 if failures else 0)
