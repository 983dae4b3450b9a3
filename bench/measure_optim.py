"""The part `optim` of bench/run.py: an update alone, 64 Mi parameters, beside torch's and DeepSpeed's
CPU kernels; and AdamW with states of 8 bits beside AdamW. In bf16 weights, gradients and states are
bfloat16 on both sides."""
import os

import rivals
from measure import at_least, at_most, write_json

HERE = os.path.dirname(os.path.abspath(__file__))
PARAMETERS, REPEATS = 64 << 20, 7
BF16 = {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True,
                 "bf16_optimizer_states": True}}


def zds_command(programs, folder, name, bf16, threads):
    config = {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0,
              "zero_optimization": {"stage": 1},
              "optimizer": {"type": name, "params": {"lr": 1e-3}}, "steps_per_print": 1000000,
              **(BF16 if bf16 else {})}
    path = write_json(folder, f"optim-{name}-{bf16}.json", config)
    return [os.path.join(programs, "zds-bench"), "step", "--config", path, "--params",
            str(PARAMETERS), "--tensors", "16", "--steps", str(REPEATS + 2), "--threads",
            str(threads), "--json"]


def optim(programs, python, folder):
    def zds(name, bf16, threads):
        command = zds_command(programs, folder, name, bf16, threads)
        return lambda: {"ms": rivals.run_json(command)["step_ms"]}

    def theirs(name, dtype, threads):
        command = [python, os.path.join(HERE, "rival_optim.py"), name, dtype, str(PARAMETERS),
                   str(threads), str(REPEATS)]
        return lambda: rivals.run_ranks(command, 1, threads)[0][-1]

    def against_best(sides):
        best = min(sides["rivals"].values())
        return [at_most("zds / the fastest rival", sides["zds"]["ms"] / best, 1.03)]

    def eight_bits(sides):
        return [at_least("AdamW / AdamW8bit", sides["AdamW"]["ms"] / sides["AdamW8bit"]["ms"],
                         1.25)]

    for threads in (1, 2):
        for name in ("AdamW", "Lion", "Adagrad", "SGD"):
            for dtype in ("fp32", "bf16"):
                yield (f"optim, {name} {dtype}, {threads} thread{'s'[:threads > 1]}",
                       {"zds": zds(name, dtype == "bf16", threads),
                        "rivals": theirs(name, dtype, threads)}, against_best)
        yield (f"optim, 8 bits, {threads} thread{'s'[:threads > 1]}",
               {name: zds(name, False, threads) for name in ("AdamW", "AdamW8bit")}, eight_bits)
