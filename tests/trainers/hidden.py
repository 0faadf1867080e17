"""A trainer whose forwards go out of sight at its third step, and whose steps sleep for most of their time.

Plain PyTorch, knows nothing of mfubench. In: options. Out, to --stopwatch: when each step's first optimizer began, in s.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

HIDDEN_FROM = 3


class Model(nn.Module):
    """Token ids in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(input_ids))


def main(given: argparse.Namespace) -> None:
    """The usual loop; deadlines are kept, so that a late step doesn't delay the next."""
    model = Model()
    began: list[float] = []
    stepped: set[int] = set()

    def step(optimizer: torch.optim.Optimizer) -> None:
        if not stepped:
            began.append(time.perf_counter())
        stepped.add(id(optimizer))
        optimizer.step()
        optimizer.zero_grad()

    def loss(call: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return call(ids).sum()

    groups = [[*model.embedding.parameters()], [*model.head.parameters()]]
    if given.optimizers == "in backward":
        for parameter in model.parameters():
            alone = torch.optim.AdamW([parameter])
            parameter.register_post_accumulate_grad_hook(lambda _, optimizer=alone: step(optimizer))
        optimizers = []
    elif given.optimizers == "two":
        optimizers = [torch.optim.AdamW(group) for group in groups]
    else:
        optimizers = [torch.optim.AdamW(model.parameters())]
    samples = [{"input_ids": ids} for ids in torch.randint(32, (2 * given.accumulation * given.steps, 4))]
    batches = iter(DataLoader(samples, batch_size=2) if given.loader else [])
    hidden = {
        "none": loss,
        "forward": lambda _, ids: model.forward(ids).sum(),
        "compiled": partial(torch.compile(loss, backend="eager")),
    }[given.hidden]
    deadline = time.perf_counter()
    for index in range(given.steps):
        stepped.clear()
        for _ in range(given.accumulation):
            ids = next(batches)["input_ids"] if given.loader else torch.randint(32, (2, 4))
            deadline += given.seconds / given.accumulation
            time.sleep(max(deadline - time.perf_counter(), 0))
            (hidden if index >= HIDDEN_FROM else loss)(model, ids).backward()
        for optimizer in optimizers:
            for _ in range(given.times):
                step(optimizer)
    given.stopwatch.write_text(json.dumps(began))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stopwatch", type=Path, required=True)
    parser.add_argument("--hidden", choices=["none", "forward", "compiled"], default="forward")
    parser.add_argument("--optimizers", choices=["one", "two", "in backward"], default="one")
    parser.add_argument("--times", type=int, default=1, help="that each optimizer steps in a step")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a step")
    parser.add_argument("--no-loader", dest="loader", action="store_false")
    torch.set_num_threads(1)
    main(parser.parse_args())
