"""Report every call of a module to a listener, the observer, and keep torch.compile away from the probe's own code."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from types import CodeType, FunctionType, ModuleType
from typing import Any, Callable, Iterator, Protocol

import torch
from torch import nn

from .import_hook import after_import

PROBE_PACKAGE = __name__.rpartition(".")[0]  # the name that the probe was loaded under
PROBE_FOLDER = os.path.join(os.path.dirname(__file__), "")
ROUNDS, CALLS = 10, 200  # of measuring what a watched call costs: some milliseconds in all


class _CallState(threading.local):
    """Per thread, because the backward pass of a CUDA model recomputes modules in threads of its own."""

    in_a_call = False


class CallListener(Protocol):
    """The observer, as far as module calls need it."""

    @property
    def details(self) -> object:
        """None if inner calls are not of interest."""

    def outermost_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """A module was called outside any other in this thread. If true, `root_returned` must follow."""

    def inner_call(self, module: nn.Module) -> object:
        """A module was called inside another one, while details are wanted."""

    def root_returned(self) -> object:
        """The call that `outermost_call` answered with true is over."""

    def switch_off(self, error: Exception) -> None:
        """The probe made a mistake."""


def watch_module_calls(observer: CallListener) -> None:
    """Replaces nn.Module.__call__, the one way in that sees keyword inputs and that torch.compile follows unbroken.

    It stays for good: torch.compile takes the function it finds when it is loaded for the unpatched one.
    """
    call = _watched(nn.Module.__call__, observer, _CallState())
    nn.Module.__call__ = call  # type: ignore[method-assign]

    def leave_uncompiled(dynamo: ModuleType) -> None:
        # torch.compile skips torch's own __call__; after a graph break it would compile this one, for each class.
        for code in _codes_of_the_probe():
            dynamo.skip_code(code)

    after_import("torch._dynamo.eval_frame", leave_uncompiled, observer.switch_off)


def _codes_of_the_probe() -> Iterator[CodeType]:
    """The code of every function and method in the loaded modules of the probe, and of what is defined inside them.

    By module, so that no list of classes has to be kept; decorated functions with what they wrap.
    """
    modules = [module for name, module in list(sys.modules.items()) if _is_of_the_probe(name)]
    values = [value for module in modules for value in vars(module).values()]
    for value in values:
        if _is_of_the_probe(getattr(value, "__module__", None)):
            for member in list(vars(value).values()) if isinstance(value, type) else [value]:
                function: Any = member.fget if isinstance(member, property) else member
                for layer in (function, inspect.unwrap(function)):
                    # Code of the standard library's decorators is everybody's; what dataclass writes is in "<string>".
                    if isinstance(layer, FunctionType) and layer.__code__.co_filename.startswith(
                        (PROBE_FOLDER, "<string>")
                    ):
                        yield from _with_inner_codes(layer.__code__)


def _is_of_the_probe(module: object) -> bool:
    return isinstance(module, str) and (module == PROBE_PACKAGE or module.startswith(f"{PROBE_PACKAGE}."))


def _with_inner_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner_codes(constant)


def cost_of_an_inner_call_ns(observer: CallListener) -> float:
    """Nanoseconds that the probe adds to a module call inside another one, once details are no longer wanted.

    Measured, at its best, on a call of nothing: to clock each call would cost more than it does.
    """

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        pass

    here = _CallState()
    here.in_a_call = True
    watched = _watched(nothing, observer, here)
    return max(_fastest_ns(watched) - _fastest_ns(nothing), 0.0)


def _fastest_ns(call: Callable[..., Any]) -> float:
    """Nanoseconds of a call with an input, in the fastest of several rounds: other programs only slow them down."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(CALLS):
            call(None, None)
        rounds.append(time.perf_counter_ns() - began)
    return min(rounds) / CALLS


def _watched(original: Callable[..., Any], observer: CallListener, here: _CallState) -> Callable[..., Any]:
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
