"""Watch the calls of every module first, and of a few classes once these can tell all that is still wanted.

Watching every call costs milliseconds a step on a large model. After the steps that are looked at closely, three things
are wanted of a call: a training forward, an evaluation forward, a recomputation. The classes of the root and of the
modules that it wraps make the first two, those recomputed in the first step the third; so that recomputation that begins
later is seen, the classes of the model's blocks and of their parts are watched too.

Every call is watched again before torch.compile traces anything, and as soon as the few classes may not tell enough.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim.optimizer import Optimizer

from .describe import chain
from .import_hook import after_import
from .module_calls import CallState, costs_ns, leave_uncompiled, watched

if TYPE_CHECKING:
    from .first_step import FirstStep
    from .observer import Observer

LIBRARY = "torch.nn.modules"  # its classes are too many calls, and blocks have parts of their own


class WatchedClasses:
    """The calls that are watched in this process: of every module, or of a few classes."""

    def __init__(self, observer: Observer) -> None:
        self.few = False
        self._observer = observer
        self._here = CallState()
        self._original = nn.Module.__call__
        self._of_every_module = watched(self._original, observer, self._here)
        self._kinds: set[type[nn.Module]] = set()  # the few
        self._own: dict[Any, Any] = {}  # by class: its own _call_impl before it was watched; None: it had none
        self._optimizers: set[int] = set()  # ids of those seen in the root's first step
        self._all_ns = self._few_ns = 0
        self._compiles = False
        self._compile = nn.Module.compile
        # The only entry that sees keyword inputs and that torch.compile follows without a break.
        nn.Module.__call__ = self._of_every_module  # type: ignore[method-assign]
        after_import("torch._dynamo.eval_frame", self._watch_the_compiler, observer.switch_off)
        after_import("torch._dynamo.utils", self._tell_the_compiler, observer.switch_off)

    def learn(self, root: nn.Module, first: FirstStep) -> None:
        """Take from the root's first step the classes that can tell all that is still wanted, and the number of calls."""
        self._kinds = {*map(type, chain(root)), *first.recomputed_calls, *_parts_of_blocks(root)}
        self._optimizers = set(first.optimizers)
        costs = costs_ns()
        self._all_ns = _of_calls(first.inner_calls.values(), first.recomputed_calls.values(), costs)
        inner = [n for kind, n in first.inner_calls.items() if issubclass(kind, tuple(self._kinds))]
        self._few_ns = _of_calls(inner, first.recomputed_calls.values(), costs)

    @property
    def unclocked_ns(self) -> int:
        """Nanoseconds that the probe takes in a step for calls that are too many to be clocked, by those of the first step."""
        return self._few_ns if self.few else self._all_ns

    def watch_few(self) -> None:
        """Watch the learned classes, unless something has been compiled or someone else has replaced nn.Module.__call__."""
        entry = getattr(nn.Module, "_wrapped_call_impl", None)  # it calls the class's _call_impl; torch 2.0 has none
        foreign = self._original is not entry or nn.Module.__call__ is not self._of_every_module
        if self._compiles or foreign or nn.Module in self._kinds:
            return
        originals: dict[Any, Any] = {kind: kind._call_impl for kind in self._kinds}
        self._own = {kind: vars(kind).get("_call_impl") for kind in self._kinds}
        # Not __call__: recomputation may go past a class's own __call__, straight to nn.Module's.
        for kind, original in originals.items():
            kind._call_impl = watched(original, self._observer, self._here)
        nn.Module.__call__ = self._original  # type: ignore[method-assign]
        nn.Module.compile = self._compile_later()  # type: ignore[method-assign]
        self.few = True

    def watch_all(self) -> None:
        """Watch the calls of every module."""
        if not self.few:
            return
        self.few = False
        nn.Module.__call__ = self._of_every_module  # type: ignore[method-assign]
        nn.Module.compile = self._compile  # type: ignore[method-assign]
        for kind, own in self._own.items():
            if own is None:
                del kind._call_impl
            else:
                kind._call_impl = own

    def optimizer_starts(self, optimizer: Optimizer) -> None:
        """Watch every call again if this optimizer is new: there may be another model, of classes that aren't watched."""
        if id(optimizer) not in self._optimizers:
            self.watch_all()

    def in_an_unwatched_module(self) -> bool:
        """True if the present call is part of another module's, which isn't watched. Then every call is from now on."""
        if not self.few:
            return False
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code is not nn.Module._call_impl.__code__:
            frame = frame.f_back
        if frame is not None:
            self.watch_all()
        return frame is not None

    def _watch_the_compiler(self, dynamo: ModuleType) -> None:
        """Watch every call again before anything is compiled: both when compiling is asked for and when it may begin."""
        leave_uncompiled(dynamo)
        context: Any = dynamo.OptimizeContext
        original = context.__init__

        def begins() -> Callable[[], None]:
            self._compiles = True
            self.watch_all()
            return _nothing

        def init(compiling: Any, *args: Any, **kwargs: Any) -> None:
            if self.few:
                begins()
            original(compiling, *args, **kwargs)
            compiling.enter_exit_hooks.append(begins)

        context.__init__ = init

    def _tell_the_compiler(self, utils: ModuleType) -> None:
        """Let torch.compile take the watched call for the original one, even if it is loaded when few classes are watched."""
        utils.unpatched_nn_module_call = self._of_every_module  # type: ignore[attr-defined]

    def _compile_later(self) -> Callable[..., Any]:
        """nn.Module.compile, which takes the class's _call_impl before it asks for a compiler."""

        def compile_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._compiles = True
            self.watch_all()
            return self._compile(module, *args, **kwargs)

        return compile_module


def _of_calls(inner: Iterable[int], recomputed: Iterable[int], costs: tuple[float, float]) -> int:
    return round(sum(inner) * costs[0] + sum(recomputed) * costs[1])


def _nothing() -> None:
    pass


def _parts_of_blocks(root: nn.Module) -> set[type[nn.Module]]:
    """The classes of the blocks and of their parts; in a model without lists of blocks, of all its modules."""
    blocks = list(_blocks(root))
    modules: Iterable[nn.Module] = (part for block in blocks for part in (block, *block.children()))
    kinds = {type(module) for module in (modules if blocks else root.modules())}
    return {kind for kind in kinds if not kind.__module__.startswith(LIBRARY)}


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in the outermost lists; lists inside a block, as of experts, are its own."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)
