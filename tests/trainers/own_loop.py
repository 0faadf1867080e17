"""A user's own training loop, without any of mfubench's files: a small model in plain PyTorch or of transformers.

Prints the seconds of each step, as such scripts do, and fails or waits where it is told to.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from torch import nn

VOCABULARY, WIDTH, LAYERS, HEADS = 512, 64, 2, 4


class Attention(nn.Module):
    """Causal attention of four heads, through scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.in_projection, self.out_projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, HEADS, -1).transpose(1, 2) for part in self.in_projection(x).split(WIDTH, -1)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_projection(attended.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Attention, and a perceptron four times as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norms = Attention(), nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.perceptron(self.norms[1](x))


class OwnGPT(nn.Module):
    """A GPT as people write it themselves, without a config."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(256, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=128,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
    )


def with_lora(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("own", "llama", "lora", "frozen", "none"), default="llama")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32])
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--sleep", type=float, default=0.0)
    given = parser.parse_args()
    if given.model == "none":
        print("nothing to train here")
        return
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    module = OwnGPT() if given.model == "own" else llama()
    if given.model == "lora":
        module = with_lora(module)
    if given.model == "frozen":
        module.model.embed_tokens.requires_grad_(False)
    if given.checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    model = nn.parallel.DistributedDataParallel(module) if ranks > 1 else module
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(given.steps):
        began = time.perf_counter()
        for _ in range(given.accumulate):
            ids = torch.randint(0, VOCABULARY, (2, given.lengths[step % len(given.lengths)]))
            if given.model == "own":
                loss = nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            else:
                loss = model(input_ids=ids, labels=ids).loss
            (loss / given.accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(given.sleep)
        print(f"step {step} took {time.perf_counter() - began:.6f} s", flush=True)
        if step == given.fail_at:
            raise KeyError("the user's own mistake")


if __name__ == "__main__":
    main()
