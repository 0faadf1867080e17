"""Every call of a module, told to the observer. In: an Observer. Out: its `outermost_call`, `inner_call`, `root_returned`."""

from __future__ import annotations

import inspect
import threading
import time
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import nn

from .batches import BatchQueue, token_shape
from .current_step import CurrentStep
from .device_clock import DeviceClock, capturing
from .first_step import FirstStep, four_bit_state, size
from .import_hook import after_import
from .root_module import RootModules

if TYPE_CHECKING:
    from .observer import Observer

ROUNDS, CALLS = 10, 200  # of measuring what a watched call costs: some milliseconds in all


class _CallState(threading.local):
    """Per thread, because the backward pass of a CUDA model recomputes modules in threads of its own."""

    in_a_call = False


def watch_module_calls(observer: Observer) -> None:
    """Replaces nn.Module.__call__, the one way in that sees keyword inputs and that torch.compile follows unbroken.

    It stays for good: torch.compile takes the function it finds when it is loaded for the unpatched one.
    """
    call = _watched(nn.Module.__call__, observer, _CallState())
    nn.Module.__call__ = call  # type: ignore[method-assign]

    def leave_uncompiled(dynamo: ModuleType) -> None:
        # torch.compile skips torch's own __call__; after a graph break it would compile this one, for each class.
        kinds = (type(observer), FirstStep, CurrentStep, RootModules, DeviceClock, BatchQueue)
        methods = [method for kind in kinds for method in vars(kind).values()]
        for function in (call, size, four_bit_state, capturing, token_shape, *methods, *map(inspect.unwrap, methods)):
            if isinstance(function, FunctionType):
                dynamo.skip_code(function.__code__)

    after_import("torch._dynamo.eval_frame", leave_uncompiled, observer.switch_off)


def cost_of_an_inner_call_ns(observer: Observer) -> float:
    """What a module call inside another one takes longer for being watched, details no longer wanted.

    Measured, at its best, on a call of nothing: to clock each call would cost more than it does.
    """

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        pass

    here = _CallState()
    here.in_a_call = True
    watched = _watched(nothing, observer, here)
    return max(_fastest_ns(watched) - _fastest_ns(nothing), 0.0)


def _fastest_ns(call: Callable[..., Any]) -> float:
    """Of a call with an input, in the fastest of several rounds: what else runs here only slows them down."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(CALLS):
            call(None, None)
        rounds.append(time.perf_counter_ns() - began)
    return min(rounds) / CALLS


def _watched(original: Callable[..., Any], observer: Observer, here: _CallState) -> Callable[..., Any]:
    is_compiling = torch.compiler.is_dynamo_compiling

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return original(self, *args, **kwargs)
        if here.in_a_call:
            if observer.details is not None:
                observer.inner_call(self)
            return original(self, *args, **kwargs)
        here.in_a_call = True
        opened = observer.outermost_call(self, args, kwargs)
        try:
            return original(self, *args, **kwargs)
        finally:  # non-reentrant recomputation leaves calls by an exception as soon as it has what it needs
            here.in_a_call = False
            if opened:
                observer.root_returned()

    return call
