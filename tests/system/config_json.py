"""zds-config --json: one shape of failures in every command, and what explain prints."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zds_config import PROGRAM, end, expect, run


def one_shape_of_json():
    """With --json every command prints an object when it fails, too: {"status": "error", "problems":
    [..]}, with the errors among them once more; and nothing on stderr."""
    good = '{"train_batch_size": 8}'
    cases = {"a file that is not there": (["/no/such"], [], "No such file", ""),
             "a file that cannot be read": (["@"], [], "the text ends", "{"),
             "arguments that are not there": (["@"], ["--args", "/no/such"], "No such file", good),
             "arguments that cannot be read": (["@"], ["--args", "{"], "", good)}
    for command, before, after in (("check", [], []), ("resolve", [], []), ("effective", [], []),
                                   ("get", [], ["zero_optimization.stage"]),
                                   ("explain", ["zero_optimization.stage"], []),
                                   ("schedule", [], ["--steps", "2"])):
        for name, (file, words, wanted, text) in cases.items():
            code, out, err = run(command, *before, *file, *after, *words, "--json", text=text)
            try:
                seen = json.loads(out)
            except ValueError:
                seen = {"status": "no JSON", "problems": []}
            expect(code == 1 and not err and seen["status"] == "error" and seen["problems"]
                   and wanted in seen["problems"][0]["message"]
                   and set(seen["problems"][0]) >= {"path", "message", "line", "column"}
                   and seen["errors"] == seen["problems"], f"{command} --json: {name}", out + err)
    bad = '{"train_batch_size": 8,\n"stage": 2, "zero_optimization": {"stage": 1, "cpu_offload": true}}'
    for command, before, after, key in (("check", [], [], "combination"),
                                        ("get", [], ["zero_optimization.stage"], "value"),
                                        ("explain", ["zero_optimization.stage"], [], "value"),
                                        ("schedule", [], ["--steps", "2"], "lr")):
        code, out, err = run(command, *before, "@", *after, "--json", text=bad)
        seen = json.loads(out)
        errors = [(p["path"], p["line"], p["severity"]) for p in seen["errors"]]
        problems = [(p["path"], p["line"], p["severity"]) for p in seen["problems"]]
        expect(code == 1 and not err and seen["status"] == "error" and key in seen
               and errors == [("stage", 2, "error")]
               and problems[:2] == [("stage", 2, "error"),
                                    ("zero_optimization.cpu_offload", 2, "warning")],
               f"{command} --json: problems of the file", out + err)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as arguments:
        arguments.write('{"per_device_train_batch_size": 3}')
        arguments.flush()
        text = '{"train_micro_batch_size_per_gpu": 4}'
        for command in ("check", "resolve"):
            code, out, _ = run(command, "@", "--args", arguments.name, "--json", text=text)
            seen = json.loads(out)
            expect(code == 3 and seen["status"] == "mismatch"
                   and [(p["path"], p["column"]) for p in seen["problems"]]
                   == [("train_micro_batch_size_per_gpu", 36)], f"{command} --json: mismatch", out)
    code, out, _ = run("check", "@", "--json", text=good)
    seen = json.loads(out)
    expect((code, seen["status"], seen["problems"]) == (0, "ok", []), "check --json: ok", out)
    for key in ("no.such.key", "optimizer.params.no_such_option"):
        for words in ((key,), (key, "@")):
            code, out, err = run("explain", *words, "--json", text=good)
            seen = json.loads(out)
            expect(code == 1 and not err and seen["status"] == "error"
                   and key.rpartition(".")[2] in seen["problems"][0]["message"],
                   f"explain --json {key}", out + err)
    code, out, err = run("get", "@", "no.such.key", "--json", text=good)
    expect(code == 1 and "there is no key" in json.loads(out)["problems"][0]["message"],
           "get --json: no key", out + err)
    code, _, err = run("schedule", "@", "--steps", "2", "--json", "--plot", text=good)
    expect(code == 2 and "--json" in err, "schedule: --json and --plot exclude each other", err)


def explains_as_json():
    text = ('{"train_batch_size": 8, "zero_optimization": {"stage": 2, "max_live_parameters": 7},'
            '"optimizer": {"type": "SGD", "params": {"lr": "auto"}}}')
    with tempfile.NamedTemporaryFile("w", suffix=".json") as arguments:
        arguments.write('{"learning_rate": 0.25}')
        arguments.flush()
        code, out, _ = run("explain", "optimizer.params.lr", "@", "--args", arguments.name, "--json",
                           text=text)
    seen = json.loads(out)
    key, place = seen["keys"][0], text.index('"auto"') + 1
    expect(code == 0 and seen["status"] == "ok" and seen["value"] == 0.25
           and seen["set_at"] == f"@:1:{place}" and (key["plugin"], key["default"], key["auto"])
           == ("SGD", 0.001, "learning_rate"), "explain --json: an option", out)
    code, out, _ = run("explain", "zero_optimization.stage3_max_live_parameters", "@", "--json",
                       text=text)
    seen = json.loads(out)
    expect((seen["value"], seen["set_at"]) == (7, "@:1:82"), "explain --json: another spelling", out)
    code, out, _ = run("explain", "train_micro_batch_size_per_gpu", "@", "--world-size", "4", "--json",
                       text=text)
    seen = json.loads(out)
    expect((seen["value"], seen["set_at"]) == (2, None), "explain --json: with a context", out)
    code, _, err = run("explain", "bf16", "--world-size", "4")
    expect(code == 2 and "FILE" in err, "explain: a context without a file", err)
    code, out, _ = run("explain", "--json")
    expect(code == 0 and len(json.loads(out)["keys"]) > 380, "explain --json: all keys", out)


for test in (one_shape_of_json, explains_as_json):
    test()
end()
