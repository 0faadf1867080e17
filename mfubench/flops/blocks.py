"""The repetition in a model's blocks. In: a model on the meta device. Out: how its blocks repeat, and shorter ones.

A large model is some blocks again and again. What one more repetition adds is known from two of them, so nothing is
traced a hundred times over; blocks that don't repeat exactly are traced one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

Signature = tuple[Any, ...]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Repetition:
    """A model's blocks: `times` times the same `period` of them."""

    blocks: Any  # torch.nn.ModuleList
    period: int
    times: int


def repetition(model: Any) -> Repetition | None:
    """How the blocks of `model` repeat; None where they don't, or so seldom that there is nothing to gain."""
    import torch

    config = model.config.get_text_config()
    depth = getattr(config, "num_hidden_layers", None)
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    blocks = next((module for module in lists if len(module) == depth), None)
    if blocks is None or _share_parameters(blocks):
        return None
    kinds = getattr(config, "layer_types", None) or [None] * len(blocks)
    signatures = [(kind, _signature(block)) for kind, block in zip(kinds, blocks, strict=False)]
    for period in range(1, len(signatures) // 3 + 1):
        if len(blocks) % period == 0 and signatures[period:] == signatures[:-period]:
            return Repetition(blocks, period, len(blocks) // period)
    return None


@contextmanager
def shortened(repeated: Repetition, times: int) -> Iterator[None]:
    """The model with its blocks repeated `times` times only; all are back afterwards."""
    kept = repeated.period * times
    rest = list(repeated.blocks[kept:])
    del repeated.blocks[kept:]
    try:
        yield
    finally:
        repeated.blocks.extend(rest)


def extrapolated(one: int, two: int, times: int) -> int:
    """An amount of a model whose blocks are repeated `times` times, from that with one and with two repetitions.

    The first repetition may differ from the others, as it does where nothing in front of it is trained.
    """
    return one + (times - 1) * (two - one)


def extrapolated_each(one: Mapping[Key, int], two: Mapping[Key, int], times: int) -> dict[Key, int]:
    """`extrapolated` of every amount in two mappings; what a mapping lacks is 0."""
    return {key: extrapolated(one.get(key, 0), two.get(key, 0), times) for key in dict.fromkeys((*one, *two))}


def _share_parameters(blocks: Any) -> bool:
    parameters = [id(parameter) for block in blocks for parameter in block.parameters()]
    return len(set(parameters)) < len(parameters)


def _signature(block: Any) -> Signature:
    """All that tells one block from another but its number: classes, plain settings and the shapes of its parameters."""
    return tuple((name, type(module), _settings(module), _shapes(module)) for name, module in block.named_modules())


def _settings(module: Any) -> Signature:
    plain = (int, float, str, type(None))
    settings = ((name, value) for name, value in vars(module).items() if isinstance(value, plain))
    return tuple((name, value) for name, value in settings if name != "layer_idx")


def _shapes(module: Any) -> Signature:
    own = module.named_parameters(recurse=False)
    return tuple((name, tuple(parameter.shape), parameter.requires_grad) for name, parameter in own)
