"""zds-config estimate: held against what zds-train says it allocated, against the formulas, and its
advice against zds-config check and an engine."""
import json
import os
import re
import struct
import subprocess
import sys
import tempfile

PROGRAMS = os.path.abspath(sys.argv[1])
CONFIG, RUN, TRAIN = (os.path.join(PROGRAMS, name) for name in ("zds-config", "zds-run",
                                                                "zds-train"))
ONE_CPU = str(min(os.sched_getaffinity(0)))  # one thread a rank, as estimate counts
GPT2 = {"model_type": "gpt2", "vocab_size": 256, "n_positions": 64, "n_embd": 256, "n_layer": 5,
        "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
failed = 0


def expect(good, what, seen=""):
    global failed
    print(f"{'ok  ' if good else 'FAIL'} {what}{'' if good else ': ' + str(seen)[:600]}", flush=True)
    failed += not good


def run(*words):
    done = subprocess.run([CONFIG, "estimate", *map(str, words)], capture_output=True, text=True,
                          timeout=60)
    return done.returncode, done.stdout, done.stderr


def estimate(*words):
    return json.loads(run(*words, "--json")[1])


def row_of(out, stage, optimizer="none", param="none"):
    return next(r for r in out["rows"] if (r["stage"], r["offload_optimizer"],
                                           r["offload_param"]) == (stage, optimizer, param))


def write(folder, name, value):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        json.dump(value, file)
    return path


def train(folder, ds_config, ranks, *words):
    with open(os.path.join(folder, "text"), "wb") as file:
        file.write(bytes(range(32, 127)) * 40)
    return subprocess.run(
        ["taskset", "-c", ONE_CPU, RUN, "-n", str(ranks), TRAIN, "--config_name", os.path.join(folder, "config.json"),
         "--train_file", os.path.join(folder, "text"), "--block_size", "8", "--max_steps", "1",
         "--deepspeed", write(folder, "ds.json", ds_config),
         "--output_dir", os.path.join(folder, "out"), "--overwrite_output_dir", *words],
        capture_output=True, text=True, timeout=120)


def allocated(folder, ds_config, ranks):
    """MiB of rank 0 by estimate's purposes, from the report that zds-train prints at its end; of
    pages that the ranks share, this rank's part."""
    done = train(folder, ds_config, ranks)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = {"parameters": 0, "gradients": 0, "optimizer": 0, "buffers": 0}
    for name, mib, shared in re.findall(
            r"^  (\S.*?)  +host +([\d.]+) MiB(?:  of which ([\d.]+) shared.*)?$", done.stderr, re.M):
        if name in ("activations and scratch", "process, at its peak"):
            continue
        key = {"parameters": "parameters", "gradients": "gradients", "master weights": "optimizer",
               "optimizer states": "optimizer"}.get(name, "buffers")
        found[key] += float(mib) - float(shared or 0) * (1 - 1 / ranks)
    return found


def matches(row, real, name):
    """Each line of the report is rounded to 0.1 MiB."""
    said = {key: row[key] / 2**20 for key in real}
    total, wanted = row["compute"] / 2**20, sum(real.values())
    expect(all(abs(said[k] - real[k]) <= 0.05 * real[k] + 0.15 for k in real)
           and abs(total - wanted) <= 0.05 * wanted, f"{name}: {total:.1f} MiB of {wanted:.1f}",
           (said, real))


def matches_what_is_allocated():
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "config.json", GPT2)
        for ranks in (1, 2):
            for dtype in ("fp32", "bf16"):
                for steps in (1, 2):
                    out = estimate(folder, "--world-size", ranks, "--dtype", dtype,
                                   "--gradient-accumulation-steps", steps)
                    for stage in (0, 1, 2):
                        real = allocated(folder, {
                            "train_micro_batch_size_per_gpu": 1,
                            "gradient_accumulation_steps": steps,
                            "bf16": {"enabled": dtype == "bf16"},
                            "zero_optimization": {"stage": stage}}, ranks)
                        matches(row_of(out, stage), real,
                                f"stage {stage}, {dtype}, {ranks} ranks, {steps} micro steps")
        # the same from the headers of safetensors, with and without the copy of a tied matrix
        by_config = estimate(folder)
        by_file = estimate(os.path.join(folder, "out"))
        expect(by_config == by_file, "the same from config.json and from safetensors",
               [(a, b) for a, b in zip(by_config["rows"], by_file["rows"]) if a != b])


def matches_with_every_kind_of_state():
    """States in blocks, of whole tensors and of each rank's own, sums over tensors, buffers of the
    optimizer's."""
    stages = {"OneBitAdam": (0, 1), "OneBitLamb": (0, 1), "ZeroOneAdam": (0,),
              "AdamW8bit": (0, 1, 2), "Muon": (0, 1, 2), "Adafactor": (0, 1, 2), "Lamb": (0, 1, 2)}
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "config.json", GPT2)
        for optimizer, good in stages.items():
            out = estimate(folder, "--world-size", 2, "--dtype", "fp32", "--optimizer", optimizer)
            for stage in good:
                real = allocated(folder, {
                    "train_micro_batch_size_per_gpu": 1,
                    "optimizer": {"type": optimizer, "params": {}},
                    "zero_optimization": {"stage": stage}}, 2)
                matches(row_of(out, stage), real, f"{optimizer} at stage {stage}")


def takes_layers_for_a_number():
    """--params N is a model of 32 layers."""
    with tempfile.TemporaryDirectory() as folder:
        safetensors(folder, {f"h.{i}.weight": [100, 101] for i in range(32)})
        for optimizer in ("AdamW", "OneBitAdam", "OneBitLamb", "ZeroOneAdam", "Adafactor"):
            words = ["--world-size", 4, "--optimizer", optimizer]
            number, model = (estimate(*what, *words) for what in
                             (("--params", 32 * 100 * 101), (folder,)))
            expect(number == model, f"a number of parameters and its layers, {optimizer}",
                   [pair for pair in zip(number["rows"], model["rows"]) if pair[0] != pair[1]])


def safetensors(folder, tensors):
    """A file of zeros, {name: shape}."""
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + bytes(at))


def follows_the_formulas():
    """Bytes for P parameters and N ranks in mixed precision with Adam: stage 0: 16 P; stage 1:
    4 P + 12 P/N, stage 2: 2 P + 14 P/N, of which 2 P are parameters that L ranks of a node share;
    stage 3: 16 P/N. In fp32: 16 P; 8 P + 8 P/N; 4 P + 12 P/N; 16 P/N."""
    p, n, share = 1e9, 8, 4
    for dtype, element in (("bf16", 2), ("fp32", 4)):
        state = 12 if element == 2 else 8
        wanted = [2 * element * p + state * p,
                  element * p / share + element * p + state * p / n,
                  element * p / share + element * p / n + state * p / n,
                  (2 * element + state) * p / n]
        out = estimate("--params", "1G", "--world-size", n, "--ranks-per-node", share, "--dtype",
                       dtype)
        got = [sum(row_of(out, stage)[k] for k in ("parameters", "gradients", "optimizer"))
               for stage in range(4)]
        expect(all(w <= g <= 1.001 * w for g, w in zip(got, wanted)), f"model states in {dtype}",
               (got, wanted))
    out = estimate("--params", "1G", "--world-size", n, "--compute", "device")
    row = row_of(out, 3, "nvme", "cpu")
    expect(2 * p / n <= row["host"] <= 2.01 * p / n and 12 * p / n <= row["file"] <= 12.01 * p / n,
           "tiers of stage 3 with nvme", row)
    row = row_of(out, 2, "cpu")
    expect(12 * p / n <= row["host"] <= 12.01 * p / n and row["node_host"] == n * row["host"],
           "the optimizer on cpu", row)
    states = {name: round(row_of(estimate("--params", "1G", "--dtype", "fp32", "--optimizer",
                                          name), 0)["optimizer"] / 1e9, 2)
              for name in ("SGD", "Lion", "AdamW")}
    expect(states == {"SGD": 0, "Lion": 4, "AdamW": 8}, "bytes of each optimizer's states", states)


def knows_models():
    with tempfile.TemporaryDirectory() as folder:
        for name, config, count in (
                ("GPT-2 small", {"model_type": "gpt2"}, 124439808),
                ("Llama 2 7B", {"model_type": "llama", "hidden_size": 4096,
                                "intermediate_size": 11008, "num_hidden_layers": 32,
                                "num_attention_heads": 32, "vocab_size": 32000}, 6738415616),
                ("Qwen2 0.5B", {"model_type": "qwen2", "hidden_size": 896,
                                "intermediate_size": 4864, "num_hidden_layers": 24,
                                "num_attention_heads": 14, "num_key_value_heads": 2,
                                "vocab_size": 151936, "tie_word_embeddings": True}, 494032768)):
            write(folder, "config.json", config)
            out = estimate(folder, "--world-size", 64)
            expect(out["num_parameters"] == count, f"{name} has {count} parameters",
                   out["num_parameters"])
        for config, words in (({"model_type": "bert"}, "bert"),
                              ({"model_type": "gpt2", "n_layer": -3}, "makes sense"),
                              ({"model_type": "gpt2", "n_embd": 1 << 30}, "too large")):
            write(folder, "config.json", config)
            code, _, err = run(folder)
            expect(code == 1 and words in err, f"refused: {config}", err)
        os.remove(os.path.join(folder, "config.json"))
        expect(run(folder)[0] == 1, "an empty folder is refused")
        safetensors(folder, {"model.embed_tokens.weight": [100, 8], "model.layers.0.w": [8, 8],
                             "model.layers.1.w": [8, 8], "model.norm.weight": [8]})
        expect(estimate(folder)["num_parameters"] == 800 + 64 + 64 + 8, "tensors of any model")
        safetensors(folder, {})
        expect(run(folder)[0] == 1, "safetensors without a tensor are refused")


def advises():
    """Out of memory: what would fit is named, and the config that is printed runs."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "config.json", GPT2)
        need = {stage: row_of(estimate(folder, "--world-size", 2), stage)["compute"]
                for stage in (0, 1, 2)}
        for stage in (0, 1):
            between = int(need[stage] + 1)
            out = estimate(folder, "--world-size", 2, "--memory", between)
            expect(out["fits"]["zero_optimization"]["stage"] == stage,
                   f"the first that fits into {between} bytes is stage {stage}", out["fits"])
            expect(all(r["fits"] == (r["compute"] + r["host"] <= between) for r in out["rows"]),
                   "each row says whether it fits", out)
            code, text, _ = run(folder, "--world-size", 2, "--memory", between)
            ready = json.loads(text[text.index("{"):])
            path = write(folder, "ready.json", ready)
            check = subprocess.run([CONFIG, "check", path, "--world-size", "2"],
                                   capture_output=True, text=True, timeout=60)
            expect((code, check.returncode, check.stdout) == (0, 0, ""), "its config is clean",
                   check.stdout)
            done = train(folder, ready, 2)
            expect(done.returncode == 0, "and an engine runs it", done.stderr)
            for name in ("stage 1", "stage 2"):
                expect(name in text[text.index("rank fit:"):text.index("{")],
                       f"it names {name}", text)
        code, _, err = run("--params", "1G", "--world-size", 64, "--ranks-per-node", 1, "--memory",
                           "1G")
        expect(code == 0 and "rank fit: stage 3; stage 3" in _ and "stage3_max_live_parameters" in _,
               "what parts of parameters make room for", _ + err)
        code, _, err = run("--params", "100G", "--memory", "1G")
        expect(code == 1 and "nothing fits" in err, "nothing fits", err)
        for words in (["--params", "1M", folder], [], ["--params", "1M", "--dtype", "fp8"],
                      ["--params", "1M", "--world-size", "0"]):
            expect(run(*words)[0] == 2, f"wrong usage: {words[-1:]}")
        code, _, err = run("--params", "1M", "--optimizer", "AdamX")
        expect(code == 1 and err.startswith('error: optimizer.type: there is no optim plugin "AdamX"'),
               "an optimizer that does not exist", err)


def fits_the_host_too():
    """What is offloaded from a device must fit into its node's host memory: in bf16 with Adam 12 bytes
    a parameter and rank, of which stage 1 keeps a rank's share."""
    p, n, share = 1e9, 8, 4
    words = ("--params", "1e9", "--world-size", n, "--ranks-per-node", share, "--compute", "device",
             "--memory", "1GB")
    host = row_of(estimate(*words), 2, "cpu")["node_host"]
    expect(1 <= host / (12 * p / n * share) < 1.01, "what the host of a node holds", host)
    for limit, fits in ((host, True), (host - 1, False)):
        row = row_of(estimate(*words, "--host-memory", int(limit)), 2, "cpu")
        expect(row["node_host"] == host and row["fits"] == fits,
               f"{host:.0f} bytes of a node and {limit:.0f}: {fits}", row)
    code, out, _ = run(*words)
    expect(code == 0 and "of each node's host memory, which is not limited" in out,
           "without a limit it says what the host needs", out)
    code, _, err = run(*words[:-1], "100MB", "--host-memory", "1MiB")
    expect(code == 1 and "1048576 bytes of a node's host" in err, "nothing fits", err)
    for wrong in (("--params", "1e9", "--host-memory", "1G"),
                  ("--params", "1e9", "--host-memory", "1G", "--memory", "1G")):
        expect(run(*wrong)[0] == 2, "a host's memory goes with a device's")


def reads_units():
    need = min(r["compute"] + r["host"] for r in estimate("--params", "1M")["rows"]
               if r["implemented"])
    for text, unit in (("{:.4f}MB", 1e6), ("{:.7f}G", 1e9), ("{:.0f}", 1), ("{:.7e}", 1),
                       ("{:.4f}MiB", 2**20)):
        fits = [estimate("--params", "1M", "--memory",
                         text.format((need + more) / unit))["fits"] is not None
                for more in (1000, -1000)]
        expect(fits == [True, False], f"bytes as {text}", fits)
    counts = [estimate("--params", text)["num_parameters"] for text in ("7e9", "7B", "0.5Gi")]
    expect(counts == [7e9, 7e9, 2**29], "counts in all units", counts)
    for words in (("--params", "0"), ("--params", "1M", "--memory", "0")):
        code, _, err = run(*words)
        expect(code == 2 and f"{words[-2]} is at least 1" in err, f"nothing: {words}", err)
    code, _, err = run("--params", "7 billion")
    expect(code == 2 and "7e9" in err, "and what is none", err)


def fails_as_json():
    """With --json a failure is an object too."""
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, "file", {})
        write(folder, "config.json", [1])
        for words, text in ((["/no/such"], "/no/such: there is no such folder; give a folder"),
                            ([file], "is no folder"), ([folder], "is no JSON object"),
                            (["--params", "1M", "--optimizer", "AdamX"], "AdamX"),
                            (["--params", "1T", "--memory", "1k"], "nothing fits")):
            code, out, err = run(*words, "--json")
            seen = json.loads(out)
            expect(code == 1 and not err and seen["status"] == "error"
                   and text in seen["problems"][0]["message"], f"as JSON: {text}", out + err)
            code, out, err = run(*words)
            expect(code == 1 and text in err, f"as text: {text}", out + err)


for test in (matches_what_is_allocated, matches_with_every_kind_of_state,
             takes_layers_for_a_number, follows_the_formulas, knows_models, advises, fits_the_host_too, reads_units, fails_as_json):
    test()
sys.exit(1 if failed else 0)
