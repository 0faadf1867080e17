"""Guard the host from the observer: from its errors, from its being compiled, and from time that nobody accounts for."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from torch._C._dynamo.eval_frame import set_eval_frame

if TYPE_CHECKING:
    from .observer import Observer

Answer = TypeVar("Answer")


def for_the_host(method: Callable[..., Answer]) -> Callable[..., Answer | None]:
    """Decorate a method that the host calls: it never raises, does nothing if the observer is off, and its time is billed."""

    @functools.wraps(method)
    def call(self: Observer, *args: Any) -> Answer | None:
        if self.off:
            return None
        began = time.perf_counter_ns()
        compiler = set_eval_frame(None)  # else torch.compile could compile the probe, and all that it calls
        try:
            return method(self, *args)
        except Exception as error:
            self.switch_off(error)
            return None
        finally:
            set_eval_frame(compiler)
            self.step.own_ns += time.perf_counter_ns() - began

    return call
