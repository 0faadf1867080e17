"""Count the FLOPs of one optimizer step while it runs, from the operators that torch dispatches; `flops` events.

Counting costs more host time than the step itself, so only one warm-up step is counted: the one after the step described
by `first_step`. The optimizer's own products are left out, and a compiled function hides its operators from dispatch.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from .first_step import is_compiled
from .formulas import described, flops_of, may_multiply_matrices, name_of


class StepCount(TorchDispatchMode):
    """Counts from its construction, in a step's first training forward, to `ended`.

    Operators are seen below autograd and autocast, in backward passes and recomputation too: autograd hands the mode on to
    the threads in which it runs a CUDA model's backward pass. Not yet run on CUDA.
    """

    supports_higher_order_operators = True

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.paused = False  # while an optimizer steps, at the end of a step or in the backward pass
        self._compiled = _compiled_anything(root)
        self._by_operator: Counter[str] = Counter()
        self._uncounted: Counter[str] = Counter()
        self._error: Exception | None = None
        if not self._compiled:
            self.__enter__()

    def ended(self) -> dict[str, Any]:
        """Stop counting and return the event's fields; FLOPs are null if they could not be counted.

        Raises any error that occurred while counting.
        """
        if self._compiled:
            return {"compiled": True, "flops": None, "by_operator": {}, "uncounted": {}}
        # Modes are a stack: one that the host entered since and still needs would be popped instead.
        if _get_current_dispatch_mode() is not self:
            raise RuntimeError("the step ended inside a dispatch mode of the framework's own")
        self.__exit__(None, None, None)
        if self._error is not None:
            raise self._error
        counted = {"by_operator": dict(self._by_operator), "uncounted": dict(self._uncounted)}
        return {"compiled": False, "flops": sum(self._by_operator.values()), **counted}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.paused or self._error is not None:
            return out
        try:
            flops = flops_of(func, args, kwargs, out)
            if flops is not None:
                self._by_operator[name_of(func)] += flops
            elif may_multiply_matrices(func, args, kwargs):
                self._uncounted[described(func, args, kwargs)] += 1
        except Exception as error:  # the host's own operator has succeeded: don't raise into it
            self._error = error
        return out


def _compiled_anything(root: nn.Module) -> bool:
    """True if torch.compile has compiled any code of this process, whose operators can't be seen.

    Besides, torch.compile would leave uncompiled, for good, any code that it first meets inside a dispatch mode.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    frames = dynamo.counters["frames"]["total"] if dynamo is not None else 0
    return frames > 0 or any(is_compiled(module) for module in root.modules())
