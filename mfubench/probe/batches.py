"""Token counts of micro-batches, and waits for them. In: what DataLoaders hand out. Out: counts, matched to forwards by shape,
in order.

Counted where batches leave the loader and still are on the CPU: reading a CUDA tensor would synchronise the device.
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
CHECKED_TOKENS = 4096  # more would cost time, and hardly tell more

Shape = Tuple[int, int]
# Real tokens (attended), trained tokens, a checksum of the token ids; None: cannot be told.
Counts = Tuple[Optional[int], Optional[int], Optional[int]]


def token_shape(value: Any) -> Shape | None:
    """[batch, sequence] of an integer tensor of two dimensions; None for anything else."""
    if isinstance(value, torch.Tensor) and value.dim() == 2 and value.dtype in (torch.int64, torch.int32):
        return (value.shape[0], value.shape[1])
    return None


class BatchQueue:
    """Batches that were loaded and have not been seen in a forward yet; loaders run ahead of the model."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Shape, Counts]] = deque(maxlen=1024)

    def put(self, batch: Any) -> None:
        """Counts a batch, if it is a mapping that has token ids."""
        if not isinstance(batch, Mapping):
            return
        ids = next((batch[name] for name in INPUT_NAMES if name in batch), None)
        shape = token_shape(ids)
        if shape is None:
            return
        real = _count_tokens(batch.get("attention_mask"), lambda mask: mask != 0)
        trained = _count_tokens(batch.get("labels"), lambda labels: labels != IGNORED_LABEL)
        self._waiting.append((shape, (real, trained, _checksum(ids))))

    def take(self, shape: Shape) -> Counts:
        """The counts of the oldest waiting batch of this shape; it waits no longer."""
        for index, (waiting, counts) in enumerate(self._waiting):
            if waiting == shape:
                del self._waiting[index]
                return counts
        return (None, None, None)


def _count_tokens(tensor: Any, chosen: Callable[[torch.Tensor], torch.Tensor]) -> int | None:
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 2 or tensor.device.type != "cpu":
        return None
    return int(chosen(tensor).sum())


def _checksum(ids: Any) -> int | None:
    """Tells batches apart by their first tokens and the order of these."""
    if ids.device.type != "cpu":
        return None
    first = ids.flatten()[:CHECKED_TOKENS].long()
    return int((first * torch.arange(1, len(first) + 1)).sum())  # no product of matrices: a counted step would count it


def watch_loaders(waited: Callable[[int], None], loaded: Callable[[Any], None]) -> None:
    """Calls `waited(ns)` for the time that any DataLoader of this process is asked for a batch, and `loaded(batch)`.

    A loader inside another one is a part of that.
    """
    iterator = torch.utils.data.dataloader._BaseDataLoaderIter
    original = iterator.__next__
    here = _LoaderState()

    def next_batch(self: Any) -> Any:
        if here.in_a_loader:
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


class _LoaderState(threading.local):
    in_a_loader = False
