"""GPT-2 of transformers trained by DeepSpeed, or by torch alone (DDP and torch.compile), one rank
of it: what bench/run.py holds zds-train against.

usage: rival_train.py CONFIG.json MODEL_CONFIG.json TEXT STEPS deepspeed|torch
                                                               (RANK, WORLD_SIZE, MASTER_* set)
Prints on rank 0 {"first_step_done": time.time() then}, and at the end
{"step_ms": median, "tokens_per_second": .., "losses": [..]}. Ends early, but not before the third
step, when a minute has passed: bf16 is very slow where the processor has no instructions for it.
"""
import json
import os
import statistics
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def batches(path, length, micro, rank, world):
    """Rows of length+1 bytes, in order: row i starts at i * length; micro steps, then ranks."""
    with open(path, "rb") as file:
        text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).long()
    row = 0
    while True:
        rows = []
        for b in range(micro):
            start = (row + rank * micro + b) * length % (len(text) - length - 1)
            rows.append(text[start:start + length + 1])
        row += micro * world
        batch = torch.stack(rows)
        yield batch[:, :-1], batch[:, 1:]


def loss_of(model, batch):
    tokens, targets = batch
    logits = model(input_ids=tokens).logits.float()
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]),
                                             targets.reshape(-1))


class DeepSpeedTrainer:
    def __init__(self, model, config):
        import deepspeed
        deepspeed.init_distributed(dist_backend="gloo")
        self.engine, _, _, _ = deepspeed.initialize(model=model, config=config,
                                                    model_parameters=model.parameters())

    def step(self, data, accumulation):
        losses = []
        for _ in range(accumulation):
            loss = loss_of(self.engine, next(data))
            self.engine.backward(loss)
            self.engine.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)


class TorchTrainer:
    """The best that torch does by itself: fused AdamW, compiled model, fp32 or autocast to bf16."""

    def __init__(self, model, config):
        torch.distributed.init_process_group("gloo")
        model = torch.compile(model)
        if torch.distributed.get_world_size() > 1:
            model = torch.nn.parallel.DistributedDataParallel(model)
        self.model = model
        options = config["optimizer"]["params"]
        self.clip = config["gradient_clipping"]
        self.bf16 = config.get("bf16", {}).get("enabled", False)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=options["lr"], betas=options["betas"],
            weight_decay=options["weight_decay"], fused=True)

    def step(self, data, accumulation):
        losses = []
        for i in range(accumulation):
            self.model.require_backward_grad_sync = i + 1 == accumulation
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                loss = loss_of(self.model, next(data))
            (loss / accumulation).backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(losses) / len(losses)


def main():
    config_path, model_path, text, steps, kind = sys.argv[1:6]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with open(config_path) as file:
        config = json.load(file)
    model = GPT2LMHeadModel(GPT2Config.from_json_file(model_path))
    model.train()
    length = model.config.n_positions
    trainer = (DeepSpeedTrainer if kind == "deepspeed" else TorchTrainer)(model, config)
    micro = config["train_micro_batch_size_per_gpu"]
    accumulation = config["gradient_accumulation_steps"]
    data = batches(text, length, micro, rank, world)
    times, losses = [], []
    late = torch.zeros(1)
    for i in range(int(steps)):
        start = time.perf_counter()
        losses.append(trainer.step(data, accumulation))
        times.append(time.perf_counter() - start)
        if i == 0 and rank == 0:
            print(json.dumps({"first_step_done": time.time()}), flush=True)
        late[0] = sum(times) > 60
        torch.distributed.broadcast(late, 0)
        if late.item() and i >= 2:
            break
    if rank == 0:
        median = statistics.median(times[1:])
        print(json.dumps({"step_ms": median * 1e3, "losses": losses,
                          "tokens_per_second": world * micro * accumulation * length / median}),
              flush=True)


main()
