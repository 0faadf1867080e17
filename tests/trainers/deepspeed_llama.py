"""Trains the tiny Llama of llama.py under DeepSpeed: two parameter groups, two micro-batches a step, four steps.

Rank 0 writes [before, after] of the first forward of every step to --stopwatch, in ns of the monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import deepspeed
import torch
from llama import build
from rank import leave
from torch import nn

STEPS, ACCUMULATION = 4, 2


class WithUnusedAdapter(nn.Module):
    """A linear layer beside which lie the matrices of an adapter that nothing multiplies with."""

    def __init__(self, adapted: nn.Module) -> None:
        super().__init__()
        self.adapted = adapted
        self.lora_A = nn.Parameter(torch.zeros(4, 32))
        self.lora_B = nn.Parameter(torch.zeros(64, 4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.adapted(hidden)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", type=int, choices=[0, 1, 2, 3], required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpointing", choices=["none", "reentrant", "non_reentrant"], default="none")
    parser.add_argument("--unused-adapter", action="store_true")
    parser.add_argument("--stopwatch", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = build(checkpointing=given.checkpointing)
    if given.unused_adapter:
        model.lm_head = WithUnusedAdapter(model.lm_head)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": ACCUMULATION,
        "bf16": {"enabled": given.bf16},
        # At its default no parameter of so small a model would be partitioned.
        "zero_optimization": {"stage": given.stage, "stage3_param_persistence_threshold": 0},
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups), config=config)
    first_forwards = []
    for micro_step in range(STEPS * ACCUMULATION):
        ids = torch.randint(64, (2, 16))
        before = time.perf_counter_ns()
        loss = engine(input_ids=ids, labels=ids).loss
        if micro_step % ACCUMULATION == 0:
            first_forwards.append([before, time.perf_counter_ns()])
        engine.backward(loss)
        engine.step()
    if os.environ["RANK"] == "0":
        given.stopwatch.write_text(json.dumps(first_forwards))
    leave()
