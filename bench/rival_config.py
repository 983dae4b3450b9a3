"""DeepSpeed's and transformers' own reading of a ds_config: as much as a training script does with
it before it starts. usage: rival_config.py DS.json ARGS.json WORLD_SIZE HIDDEN_SIZE STEPS

Prints {"load_ms": median of reading the file, filling "auto" and DeepSpeedConfig, in this process}.
"""
import contextlib
import io
import json
import statistics
import sys
import time
import types

import deepspeed.runtime.config as deepspeed_config
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

path, arguments, world_size, hidden_size, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
with open(arguments) as file:
    args = types.SimpleNamespace(**json.load(file), world_size=world_size)
args.get_warmup_steps = lambda total: int(args.warmup_steps)
model = types.SimpleNamespace(config=types.SimpleNamespace(hidden_size=hidden_size))
deepspeed_config.dist.get_rank = lambda *_, **__: 0
deepspeed_config.dist.get_world_size = lambda *_, **__: world_size
times = []
with contextlib.redirect_stdout(io.StringIO()):
    for _ in range(11):
        start = time.perf_counter()
        config = HfTrainerDeepSpeedConfig(path)
        config.trainer_config_process(args)
        config.trainer_config_finalize(args, model, steps)
        deepspeed_config.DeepSpeedConfig(config.config)
        times.append((time.perf_counter() - start) * 1e3)
print(json.dumps({"load_ms": statistics.median(times)}))
