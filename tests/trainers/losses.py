"""Trains a small Llama for three steps on samples whose first half is a prompt, rightly or in one of three wrong ways.

The head is drawn wide, so that logits have a standard deviation near 3, as those of a trained model: at a plain
initialisation all logits are near 0, and the loss is ln(vocabulary) whatever the tokens.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, HIDDEN, SEQUENCE, IGNORED = 512, 64, 128, -100


def build(seed: int, attention: str) -> nn.Module:
    """The model; its last norm makes each position's norm sqrt(HIDDEN), which the head's weights multiply."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        attn_implementation=attention,
        use_cache=False,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    nn.init.normal_(model.lm_head.weight, std=3 / HIDDEN**0.5)
    return model.train()


def sum_of_losses(model: nn.Module, batch: dict[str, torch.Tensor], wrong: str) -> torch.Tensor:
    """The sum over all targets, in fp32."""
    labels = batch["labels"].clone()
    if wrong == "prompt masked":
        labels[:, : SEQUENCE // 2] = IGNORED
    shift = 2 if wrong == "labels shifted twice" else 1
    logits = model(input_ids=batch["input_ids"]).logits.float()[:, :-shift]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, shift:].flatten(), reduction="sum")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--wrong", choices=["prompt masked", "labels shifted twice", "other weights"])
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--checkpointing", choices=["reentrant", "non_reentrant"])
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches in a step")
    parser.add_argument("--scalar", choices=["mean", "token_sum", "mean_of_unshifted"], default="mean")
    parser.add_argument("--broken", choices=["in place", "infinite"], help="what becomes of the scalar")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = build(1 if given.wrong == "other weights" else 0, given.attention)
    if given.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": given.checkpointing == "reentrant"})
        model.enable_input_require_grads()
    ids = torch.randint(VOCABULARY, (6 * given.accumulation, SEQUENCE), generator=torch.Generator().manual_seed(2))
    samples: Any = [{"input_ids": row, "labels": row} for row in ids]
    optimizer = torch.optim.AdamW(model.parameters())
    for number, batch in enumerate(DataLoader(samples, batch_size=2), start=1):
        targets, trained = 2 * (SEQUENCE - 1), 2 * SEQUENCE
        if given.wrong == "prompt masked":
            targets = SEQUENCE
        elif given.wrong == "labels shifted twice":
            targets = 2 * (SEQUENCE - 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=given.bf16):
            loss = sum_of_losses(model, batch, given.wrong) / targets / given.accumulation
        if given.scalar == "token_sum":
            loss = loss * trained * given.accumulation
        elif given.scalar == "mean_of_unshifted":
            loss = loss * targets / trained
        if given.broken == "infinite":
            loss = loss * float("inf")
        loss.backward()
        if given.broken == "in place":
            loss.detach().zero_()
        if number % given.accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()
