"""Trains a model of blocks for eight steps, in which something changes at the fifth; says which calls are watched at the end.

python few_classes.py CHANGE    one of CHANGES; "none" changes nothing. Out: "every" or "few".
"""

from __future__ import annotations

import copy
import io
import pickle
import sys

import hidden
import torch
from sleeper import Wrapper
from torch import nn
from torch.utils.checkpoint import checkpoint

CHANGES = ("none", "none, recomputed", "recomputation begins", "a wrapper", "another model", "a copy")
WATCHED_BY = "module_calls.py"


class Block(nn.Module):
    """A layer with parts of torch's own and one of the model's own; recomputed if asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.part = nn.LayerNorm(8), Part()
        self.recomputed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.recomputed:
            return x + checkpoint(self.part, self.norm(x), use_reentrant=False)
        return x + self.part(self.norm(x))


class Part(nn.Module):
    """What is recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x).relu()


class Model(nn.Module):
    """Token ids in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Other(hidden.Model):
    """Another model."""


def main(change: str) -> None:
    """The usual loop, and the change."""
    model: nn.Module = Model()
    recomputing = change.startswith("none, recomputed")
    for block in model.blocks:
        block.recomputed = recomputing
    optimizer = torch.optim.SGD(model.parameters())
    for step in range(8):
        if step == 5 and change == "recomputation begins":
            for block in model.blocks:
                block.recomputed = True
        elif step == 5 and change == "a wrapper":
            model = Wrapper(model)
        elif step == 5 and change == "another model":
            model = Other()
            optimizer = torch.optim.SGD(model.parameters())
        elif step == 5 and change == "a copy":
            pickle.dump(copy.deepcopy(model), io.BytesIO())
        model(input_ids=torch.randint(32, (2, 4))).sum().backward()
        with torch.no_grad():
            model(input_ids=torch.randint(32, (3, 4)))
        optimizer.step()
        optimizer.zero_grad()
    print("every" if nn.Module.__call__.__code__.co_filename.endswith(WATCHED_BY) else "few")


if __name__ == "__main__":
    main(sys.argv[1])
