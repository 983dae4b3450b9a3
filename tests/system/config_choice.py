"""zds-config about the optimizer and the schedule: whose choice counts, what names them, and where a
refusal of the program's own choice points."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zds_config import end, expect, run


def whose_choice_counts():
    """The four combinations of optimizer and schedule, and what only creating them shows."""
    sgd = '"optimizer": {"type": "SGD", "params": {"lr": 0.1}}'
    warm = '"scheduler": {"type": "WarmupLR", "params": {}}'
    for sections, name in (("", "the program's optimizer with the program's schedule"),
                           (f", {sgd}", "the config's optimizer with the program's schedule"),
                           (f", {warm}", "the program's optimizer with the config's schedule"),
                           (f", {sgd}, {warm}", "the config's optimizer with the config's schedule"
                            )):
        text = f'{{"train_batch_size": 8{sections}}}'
        code, out, _ = run("check", "@", "--json", text=text)
        expect(code == 0 and json.loads(out)["combination"] == name, f"check: {name}", out)
    expect(f"in use:   {name}" in run("explain", "optimizer", "@", text=text)[1],
           "explain says it too")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as arguments:
        arguments.write('{"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1}}')
        arguments.flush()
        code, out, err = run("check", "@", "--args", arguments.name,
                             text=f'{{"train_batch_size": 8, {sgd}}}')
        out = out.replace(arguments.name, "ARGS")
        wanted = ("ARGS:1:71: error: scheduler.lr_end: the config's optimizer with the program's "
                  "schedule: "
                  "scheduler polynomial: lr_end is 1, which is not below the optimizer's lr, 0.1")
        expect(code == 1 and wanted in out and not err, "check: refused when it is created", out)
        for kwargs, wanted in (
                ('{"power": 2, "lr_ent": 1}', 'ARGS:1:83: error: scheduler.lr_ent: is no option of '
                 "polynomial; did you mean lr_end?"),
                ('{"lr_end": "1"}', 'ARGS:1:71: error: scheduler.lr_end: must be a number, not "1"'),
                ('"{\\"lr_ent\\": 1}"', "ARGS:1:60: error: scheduler.lr_ent: is no option of ")):
            with open(arguments.name, "w") as file:
                file.write(f'{{"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {kwargs}}}')
            for words in (("check", "@"), ("schedule", "@", "--steps", "3")):
                code, out, err = run(*words, "--args", arguments.name,
                                     text=f'{{"train_batch_size": 8, {sgd}}}')
                out = (out + err).replace(arguments.name, "ARGS")
                expect(code == 1 and wanted in out, f"{words[0]}: at the argument: {wanted}", out)
    code, out, err = run("check", "@", text=f'{{"train_batch_size": 8, {sgd}, "scheduler": {{"type"'
                         ': "OneCycle", "params": {"cycle_min_lr": 0, "cycle_max_lr": 1}}}')
    expect(code == 0 and "warning: scheduler: the config's optimizer with the config's schedule: "
           "the optimizer has no betas" in out and not err, "check: a schedule warns", out + err)


def names_of_others():
    """What the Trainer calls an optimizer, and a name in the other section."""
    text = '{"train_batch_size": 8, "%s": {"type": "%s", "params": {}}}'
    for name, ours in (("adamw_torch", "AdamW"), ("adamw_torch_fused", "AdamW"),
                       ("adamw_hf", "AdamW"), ("adamw_apex_fused", "AdamW"),
                       ("adamw_8bit", "AdamW8bit"), ("adamw_bnb_8bit", "AdamW8bit"),
                       ("adamw_torch_8bit", "AdamW8bit"), ("paged_adamw_8bit", "AdamW8bit"),
                       ("paged_adamw_32bit", "AdamW"), ("lion_32bit", "Lion"),
                       ("lion_8bit", "Lion"), ("rmsprop_bnb", "RMSprop"),
                       ("rmsprop_bnb_8bit", "RMSprop")):
        code, out, _ = run("check", "@", text=text % ("optimizer", name))
        expect(code == 1 and f'optimizer.type: there is no optim plugin "{name}"; did you mean '
               f"{ours} (searched" in out, f"check: {name} is {ours}", out)
    for name in ("adafactor", "sgd", "rmsprop", "adagrad"):
        code, out, _ = run("check", "@", text=text % ("optimizer", name))
        expect("there is no" not in out, f"check: {name} is known", out)
    for section, name, wanted in (
            ("optimizer", "warmuplr", "a schedule (scheduler.type of a config)"),
            ("scheduler", "AdamW", "an optimizer (optimizer.type of a config)")):
        code, out, _ = run("check", "@", text=text % (section, name))
        expect(code == 1 and f'"{name}"; that names {wanted}' in out, f"check: {name} in {section}",
               out)


def torch_choices():
    text = '{"train_batch_size": 8, "optimizer": {"type": "AdamW", "params": {"%s": %s}}}'
    code, out, _ = run("check", "@", text=text % ("foreach", "true"))
    expect(code == 1 and "optimizer.params.foreach: chooses how PyTorch computes" in out,
           "check: PyTorch's own options are refused with the reason", out)
    code, out, _ = run("check", "@", text=text % ("fused", "false"))
    expect((code, out) == (0, ""), "check: and harmless when they are off", out)


for test in (whose_choice_counts, names_of_others, torch_choices):
    test()
end()
