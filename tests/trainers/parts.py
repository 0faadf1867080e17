"""A trainer whose step is a sleep, some matmuls and some copies, each of a known length; it may disturb a profile of its steps.

Plain PyTorch, knows nothing of mfubench. In: options. Out: the same records as any trainer, when the probe is there, and with
--stopwatch the seconds of each part of each step by its own clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from rank import leave
from torch import nn

MATMUL, COPIED = 640, 4_000_000


class Parts(nn.Module):
    """Token ids in, logits out; a training forward has the parts."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)
        self.options = options
        self.spent: list[dict[str, float]] = []
        self.one, self.other = torch.rand(MATMUL, MATMUL), torch.rand(MATMUL, MATMUL)
        self.kept, self.moved = torch.rand(COPIED), torch.rand(COPIED)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        clock = [time.perf_counter()]
        time.sleep(self.options.sleep)
        clock.append(time.perf_counter())
        with torch.no_grad():
            for _ in range(self.options.matmuls):
                torch.mm(self.one, self.other)
            clock.append(time.perf_counter())
            for _ in range(self.options.copies):
                self.kept.copy_(self.moved)
        clock.append(time.perf_counter())
        names = ("sleep", "matmul", "copy")
        self.spent.append({name: clock[n + 1] - clock[n] for n, name in enumerate(names)})
        return self.head(self.embedding(input_ids))


def profiler_runs() -> bool:
    """Whether someone profiles this thread."""
    return torch._C._autograd._profiler_enabled()


def train(options: argparse.Namespace) -> None:
    """The usual loop, with the disturbance that was asked for."""
    parts = Parts(options)
    model: nn.Module = nn.parallel.DistributedDataParallel(parts) if options.ddp else parts
    optimizer = torch.optim.AdamW(model.parameters())
    own = torch.profiler.profile()
    if options.disturbance == "own profiler":
        own.start()
    for _ in range(options.steps):
        model(torch.zeros(2, 16, dtype=torch.long)).sum().backward()
        if options.disturbance == "abort" and profiler_runs():
            os.abort()
        if options.disturbance == "own profiler later" and profiler_runs():
            with torch.profiler.profile():
                pass
        optimizer.step()
        optimizer.zero_grad()
    if options.disturbance == "own profiler":
        own.stop()
    if options.stopwatch:
        options.stopwatch.write_text(json.dumps(parts.spent))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds of a step")
    parser.add_argument("--matmuls", type=int, default=0)
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--stopwatch", type=Path)
    parser.add_argument("--ddp", action="store_true", help="one of several ranks, started by torchrun")
    parser.add_argument("--disturbance", choices=["own profiler", "own profiler later", "abort"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.ddp:
        torch.distributed.init_process_group("gloo")
    train(given)
    if given.ddp:
        leave()
