"""Keep the scalars on which backward() is called in the current step: the loss, as the framework scales it.

`Tensor.backward` looks torch.autograd.backward up at each call, so replacing it sees every framework. A kept scalar is a
detached view and its version: no kernel, no graph, no synchronisation. It is read later, and only if nothing has changed
it in place.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, List, Optional

import torch

# Of each micro-batch; None: backward() was called on no scalar, or it was changed in place since.
Losses = List[Optional[float]]


def watch_backward(called: Callable[[Any], None]) -> None:
    """Call `called(tensors)` with the first argument of every torch.autograd.backward of this process."""
    original = torch.autograd.backward

    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        called(tensors)
        original(tensors, *args, **kwargs)

    torch.autograd.backward = backward


class StepLosses:
    """The losses of the current step, one for each of its training forwards."""

    def __init__(self) -> None:
        self._kept: list[tuple[torch.Tensor, int] | None] = []

    def micro_batch(self) -> None:
        """Note a training forward: the scalars from here on are of its micro-batch."""
        self._kept.append(None)

    def called(self, tensors: Any) -> None:
        """Note the argument of a call of backward(); of several scalars in a micro-batch the last one is the loss.

        A call inside a backward pass recomputes (reentrant checkpointing); a subclass, as a sharded tensor, might
        communicate when it is read.
        """
        if self._kept and torch._C._current_graph_task_id() == -1:
            tensor = tensors[0] if isinstance(tensors, (list, tuple)) and len(tensors) == 1 else tensors
            if type(tensor) is torch.Tensor and tensor.numel() == 1:
                self._kept[-1] = (tensor.detach(), tensor._version)

    def taken(self, read: bool) -> dict[str, Losses]:
        """Forget the losses, since their step is over. Returns the field `losses`; reading waits for a device."""
        kept, self._kept = self._kept, []
        return {"losses": [None if each is None else _value(*each) for each in kept]} if read else {}


def _value(scalar: torch.Tensor, version: int) -> float | None:
    return float(scalar) if scalar._version == version else None
