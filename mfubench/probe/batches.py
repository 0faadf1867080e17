"""Count the tokens of micro-batches, and the waits for them; counts are matched to forwards by shape, in order.

Counted when batches leave the DataLoader and are still on the CPU: reading a CUDA tensor would synchronise the device.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Callable, Optional, Tuple

import torch
import torch.utils.data.dataloader

INPUT_NAMES = ("input_ids", "tokens", "input", "inputs")
IGNORED_LABEL = -100  # cross-entropy's ignore_index
CHECKED_TOKENS = 4096  # more would cost time and add little

Shape = Tuple[int, int]
# Real tokens (attended), trained tokens, targets (trained tokens less those that are first in their sequence, which no
# position predicts), a checksum of the token ids; None: not known.
Counts = Tuple[Optional[int], Optional[int], Optional[int], Optional[int]]


def token_shape(value: Any) -> Shape | None:
    """[batch, sequence] of an integer tensor of two dimensions; None for anything else."""
    if isinstance(value, torch.Tensor) and value.dim() == 2 and value.dtype in (torch.int64, torch.int32):
        return (value.shape[0], value.shape[1])
    return None


class BatchQueue:
    """Batches loaded but not yet seen in a forward; loaders run ahead of the model."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Shape, Counts]] = deque(maxlen=1024)

    def put(self, batch: Any) -> None:
        """Count a batch, if it is a mapping with token ids."""
        if not isinstance(batch, Mapping):
            return
        ids = next((batch[name] for name in INPUT_NAMES if name in batch), None)
        shape = token_shape(ids)
        if shape is None:
            return
        real = _count_tokens(batch.get("attention_mask"), lambda mask: mask != 0)
        trained = _count_tokens(batch.get("labels"), lambda labels: labels != IGNORED_LABEL)
        first = _count_tokens(batch.get("labels"), lambda labels: labels[:, :1] != IGNORED_LABEL)
        targets = None if trained is None or first is None else trained - first
        self._waiting.append((shape, (real, trained, targets, _checksum(ids))))

    def take(self, shape: Shape) -> Counts:
        """Remove the oldest waiting batch of this shape and return its counts."""
        for index, (waiting, counts) in enumerate(self._waiting):
            if waiting == shape:
                del self._waiting[index]
                return counts
        return (None, None, None, None)

    def take_all(self) -> list[tuple[Shape, Counts]]:
        """Remove all waiting batches and return them, oldest first."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


def _count_tokens(tensor: Any, chosen: Callable[[torch.Tensor], torch.Tensor]) -> int | None:
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 2 or tensor.device.type != "cpu":
        return None
    return int(chosen(tensor).sum())


def _checksum(ids: Any) -> int | None:
    """A checksum of a batch's first tokens and their order, to tell batches apart."""
    if ids.device.type != "cpu":
        return None
    first = ids.flatten()[:CHECKED_TOKENS].long()
    # Not a matrix product, which a counted step would count.
    return int((first * torch.arange(1, len(first) + 1)).sum())


def watch_loaders(waited: Callable[[int], None], loaded: Callable[[Any], None]) -> None:
    """Call `waited(ns)` with the time of each request to a DataLoader of this process, and `loaded(batch)` with its batch.

    A loader inside another one is part of it.
    """
    iterator = torch.utils.data.dataloader._BaseDataLoaderIter
    original = iterator.__next__
    here = threading.local()

    def next_batch(self: Any) -> Any:
        if getattr(here, "in_a_loader", False):
            return original(self)
        here.in_a_loader = True
        began = time.perf_counter_ns()
        try:
            batch = original(self)
        finally:
            here.in_a_loader = False
            waited(time.perf_counter_ns() - began)
        loaded(batch)
        return batch

    iterator.__next__ = next_batch  # type: ignore[method-assign]
