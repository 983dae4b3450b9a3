#!/usr/bin/env python3
"""Golden losses and gradients of small GPT-2s by transformers in float64, for unit/gpt2.c.

usage: make.py (with PyPI's torch, transformers and safetensors); writes beside itself. Made with transformers 5.23."""
import json, os
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = {  # batch, positions, config
    "tied": (3, 20, dict(vocab_size=50, n_positions=24, n_embd=24, n_head=3, n_layer=2)),
    "untied": (2, 11, dict(vocab_size=37, n_positions=11, n_embd=18, n_head=2, n_layer=3, n_inner=40,
                           tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True)),
    "gelu": (2, 9, dict(vocab_size=29, n_positions=16, n_embd=8, n_head=2, n_layer=1, activation_function="gelu")),
    "relu": (2, 9, dict(vocab_size=29, n_positions=16, n_embd=8, n_head=2, n_layer=1, activation_function="relu",
                        scale_attn_weights=False)),
    "silu": (2, 9, dict(vocab_size=29, n_positions=16, n_embd=8, n_head=1, n_layer=1, activation_function="silu",
                        layer_norm_epsilon=1e-3)),
    "tanh": (2, 9, dict(vocab_size=29, n_positions=16, n_embd=8, n_head=4, n_layer=1, activation_function="tanh")),
    "pieces": (5, 80, dict(vocab_size=600, n_positions=80, n_embd=12, n_head=2, n_layer=1, n_inner=512)),
}
for name, (batch, positions, fields) in CASES.items():
    torch.manual_seed(len(name))
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, **fields)
    model = GPT2LMHeadModel(config).double()
    for p in model.parameters():  # every weight matters, biases and norms too
        p.data = (p.data + 0.2 * torch.randn_like(p)).float().double()
    tokens = torch.randint(0, config.vocab_size, (batch, positions + 1))
    logits = model(input_ids=tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, config.vocab_size), tokens[:, 1:].reshape(-1))
    loss.backward()
    out = {"tokens": tokens.int(), "loss": loss.detach().float().reshape(1), "last_scores": logits[0, -1].detach().float()}
    for k, p in model.named_parameters():
        out[k] = p.detach().float().contiguous()
        out["grad." + k] = p.grad.float().contiguous()
    save_file(out, f"{HERE}/{name}.safetensors")
    with open(f"{HERE}/{name}.json", "w") as f:
        json.dump(dict(model_type="gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **fields), f, indent=1)
        f.write("\n")
