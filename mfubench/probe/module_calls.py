"""Every call of a module, told to the observer. In: an Observer. Out: its `outermost_call`, `inner_call`, `root_returned`."""

from __future__ import annotations

import threading
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .first_step import FirstStep, four_bit_state, size
from .import_hook import after_import

if TYPE_CHECKING:
    from .observer import Observer


class _Here(threading.local):
    """Per thread, because the backward pass of a CUDA model recomputes modules in threads of its own."""

    in_a_call = False


def watch_module_calls(observer: Observer) -> None:
    """Replaces nn.Module.__call__, the one way in that sees keyword inputs and that torch.compile follows unbroken.

    It stays for good: torch.compile takes the function it finds when it is loaded for the unpatched one.
    """
    original = nn.Module.__call__
    is_compiling = torch.compiler.is_dynamo_compiling
    here = _Here()

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

    nn.Module.__call__ = call  # type: ignore[method-assign]

    def leave_uncompiled(dynamo: ModuleType) -> None:
        # torch.compile skips torch's own __call__; after a graph break it would compile this one, for each class.
        for function in (call, size, four_bit_state, *vars(type(observer)).values(), *vars(FirstStep).values()):
            if isinstance(function, FunctionType):
                dynamo.skip_code(function.__code__)

    after_import("torch._dynamo.eval_frame", leave_uncompiled, observer.switch_off)
