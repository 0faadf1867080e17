"""Report every call of a module to the observer, and keep torch.compile away from the probe's own code."""

from __future__ import annotations

import os
import sys
import threading
import timeit
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable, Iterator

import torch
from torch import nn

if TYPE_CHECKING:
    from .observer import Observer

PROBE_PACKAGE = __name__.rpartition(".")[0]  # the name under which the probe was loaded
PROBE_FOLDER = os.path.join(os.path.dirname(__file__), "")
ROUNDS, CALLS = 10, 200  # to measure the cost of a watched call: some milliseconds in all


class CallState(threading.local):
    """State per thread, because the backward pass of a CUDA model recomputes modules in threads of its own."""

    in_a_call = False


def leave_uncompiled(dynamo: ModuleType) -> None:
    """Keep torch.compile from compiling the probe: after a graph break it would do so, for each class of modules."""
    for code in _codes_of_the_probe():
        dynamo.skip_code(code)


def _codes_of_the_probe() -> Iterator[CodeType]:
    """The code of all functions and methods in the loaded modules of the probe, and of functions defined inside them.

    Found by module, so that no list of them has to be kept.
    """
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(f"{PROBE_PACKAGE}.")]
    values = [value for module in modules for value in vars(module).values()]
    members = [member for value in values if isinstance(value, type) for member in vars(value).values()]
    for function in (*values, *members):
        if isinstance(function, FunctionType) and function.__code__.co_filename.startswith(PROBE_FOLDER):
            yield from _with_inner_codes(function.__code__)


def _with_inner_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner_codes(constant)


def costs_ns() -> tuple[float, float]:
    """Nanoseconds that the probe adds to a module call once details are no longer wanted: inside another one, recomputed.

    Measured, at its best, on an empty call: timing each call would cost more than the call.
    """

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        pass

    observer: Any = SimpleNamespace(details=None, recomputed=lambda: None)
    inside = CallState()
    inside.in_a_call = True
    inner = watched(nothing, observer, inside)
    recomputed = watched(nothing, observer, CallState(), backward_pass=lambda: 0)
    own = _fastest_ns(nothing)
    return max(_fastest_ns(inner) - own, 0.0), max(_fastest_ns(recomputed) - own, 0.0)


def _fastest_ns(call: Callable[..., Any]) -> float:
    """Nanoseconds of a call with an input, in the fastest of several rounds: other programs only slow them down."""
    return min(timeit.repeat(lambda: call(None, None), number=CALLS, repeat=ROUNDS)) / CALLS * 1e9


def watched(
    original: Callable[..., Any],
    observer: Observer,
    here: CallState,
    backward_pass: Callable[[], int] = torch._C._current_graph_task_id,
) -> Callable[..., Any]:
    """`original`, the call of a module, which also tells the observer; `backward_pass` is -1 outside of any."""
    is_compiling = torch.compiler.is_dynamo_compiling

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return original(self, *args, **kwargs)
        if here.in_a_call:
            if observer.details is not None:
                observer.inner_call(self)
            return original(self, *args, **kwargs)
        here.in_a_call = True
        opened = False
        if observer.details is None and backward_pass() != -1:
            observer.recomputed()
        else:
            opened = bool(observer.outermost_call(self, args, kwargs))
        try:
            return original(self, *args, **kwargs)
        finally:  # non-reentrant recomputation leaves calls by an exception, once it has all it needs
            here.in_a_call = False
            if opened:
                observer.root_returned()

    return call
