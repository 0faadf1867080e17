"""Trains a small model under each style of torch.compile and prints, as JSON, what torch.compile says it did.

Out: {style: {"frames", "graphs", "breaks", "compilations", "recompilations"}}; styles with and without a graph break.
With --after-eager a model that isn't compiled is trained first.
"""

from __future__ import annotations

import json
import sys

import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters, get_compilation_metrics

STYLES = ("function around it", "method", "function", "each block's method", "each block's function")


class Block(nn.Module):
    """A layer that may break the graph in its middle, and may carry a hook."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.breaks = breaks
        if breaks:
            self.up.register_forward_hook(lambda _module, _inputs, output: output * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up(self.norm(x))
        if self.breaks:
            torch._dynamo.graph_break()
        return x + self.down(up.relu())


class Model(nn.Module):
    """Token ids in, logits out; more blocks than torch.compile's recompilation limit."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 8)
        self.blocks = nn.ModuleList(Block(breaks) for _ in range(10))
        self.head = nn.Linear(8, 32)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def compiled(style: str, breaks: bool) -> nn.Module:
    """A new model, compiled in that style; the eager backend runs what was captured."""
    model = Model(breaks)
    if style == "method":
        model.compile(backend="eager")
    elif style == "each block's method":
        for block in model.blocks:
            block.compile(backend="eager")
    elif style == "each block's function":
        model.blocks = nn.ModuleList(torch.compile(block, backend="eager") for block in model.blocks)
    return torch.compile(model, backend="eager") if style == "function" else model


def train(model: nn.Module, style: str, steps: int = 3) -> None:
    """The usual loop."""
    optimizer = torch.optim.SGD(model.parameters())
    ids = torch.randint(32, (2, 4))

    def forward() -> torch.Tensor:
        return model(input_ids=ids).sum()

    if style == "function around it":
        forward = torch.compile(forward, backend="eager")
    for _ in range(steps):
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    if sys.argv[1:] == ["--after-eager"]:
        train(Model(breaks=False), "eager", steps=5)
    said = {}
    for breaks in (False, True):
        for style in STYLES if breaks else STYLES[1:]:  # a model inside a compiled function shows only at a break
            torch._dynamo.reset()
            counters.clear()
            before = len(get_compilation_metrics())
            train(compiled(style, breaks), style)
            metrics = get_compilation_metrics()[before:]
            said[f"{style}, {'broken' if breaks else 'whole'}"] = {
                "frames": dict(counters["frames"]),
                "graphs": counters["stats"]["unique_graphs"],
                "breaks": sum(counters["graph_break"].values()),
                "compilations": len(metrics),
                "recompilations": sum(bool(m.recompile_reason) for m in metrics),
            }
    print(json.dumps(said))
