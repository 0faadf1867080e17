"""Observe this process: from calls of modules, optimizer events and batches to lines of `events`.

A training forward is an outermost call of the root module, outside a backward pass, with gradients enabled and an
integer [batch, sequence] input. The root is the module called that way; one that contains the old root (a wrapper put
around it later) takes its place. Everything that optimizers do between two training forwards is one step, because
sharding libraries and per-parameter optimizers step several times; optimizer events before the first training forward
(to warm up states) are no step.

Later forwards may be out of sight: in a replayed CUDA graph, in a function compiled as a whole, past the model's call.
Then a step begins when parameters that were stepped in this one are stepped again, from the second such time on: once
may be a loop around the optimizer. A model whose first call is out of sight is not seen at all.
"""

from __future__ import annotations

import atexit
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from . import describe
from .batches import INPUT_NAMES, BatchQueue, Shape, token_shape, watch_loaders
from .current_step import CurrentStep
from .device_clock import DeviceClock, capturing
from .events import Writer
from .first_step import FirstStep
from .guarded import for_the_host
from .loss import StepLosses, watch_backward
from .root_module import RootModules
from .step_profile import StepProfile
from .watched_classes import WatchedClasses

if TYPE_CHECKING:
    from .counted_step import StepCount


def install(writer: Writer, profile_flops: bool) -> None:
    """Observe every module call, optimizer step and loaded batch of this process from now on.

    With `profile_flops`, also count the FLOPs of the root's second step.
    """
    observer = Observer(writer, profile_flops)
    register_optimizer_step_pre_hook(lambda optimizer, _args, _kwargs: observer.optimizer_starts(optimizer))
    register_optimizer_step_post_hook(lambda optimizer, _args, _kwargs: observer.optimizer_ended(optimizer))
    watch_loaders(observer.waited, observer.loaded)
    watch_backward(observer.backward_called)


class Observer:
    """The observer of one process."""

    def __init__(self, writer: Writer, profile_flops: bool) -> None:
        self.details: FirstStep | None = None  # of the root's first step; None once that is described
        self._writer = writer
        self._profile_flops = profile_flops
        self._count: StepCount | None = None  # while the root's second step is counted
        self._batches = BatchQueue()
        self.step = CurrentStep()
        self._losses = StepLosses()
        self._profile = StepProfile(writer)
        self.off = False
        self._root_modules = RootModules()
        self._root_runs = False
        self._watched = WatchedClasses(self)

    @for_the_host
    def outermost_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Take a module call outside any other in this thread. True: it is the root, `root_returned` must follow."""
        # While the root runs, other threads' outermost calls are parts of it (nn.DataParallel's replicas).
        if self._root_runs:
            return False
        if torch._C._current_graph_task_id() != -1:  # in a backward pass
            self.recomputed()
            if self.details is not None:
                self.details.recomputed_call(module)
            return False
        shape = _input_shape(args, kwargs)
        if shape is None or capturing() or self._watched.in_an_unwatched_module():
            return False
        if not torch.is_grad_enabled():
            return self._evaluation_forward(module, shape)
        return self._training_forward(module, shape)

    @for_the_host
    def inner_call(self, module: nn.Module) -> None:
        """Take a module call inside another one, while details are wanted."""
        if self.details is not None:
            self.details.inner_call(module)

    def recomputed(self) -> None:
        """Take a module call outside any other in a backward pass, while no details are wanted: it must cost little."""
        self.step.recomputed_calls += 1

    @for_the_host
    def root_returned(self) -> None:
        """Take the end of the root call that `outermost_call` reported."""
        self._root_runs = False
        if self.details is not None:
            self.details.in_training_forward = False
        if self._count is not None:
            self._count.paused = False

    @for_the_host
    def optimizer_starts(self, optimizer: Optimizer) -> None:
        """Note that an optimizer is about to step: its gradients are there."""
        if capturing():
            return
        self._watched.optimizer_starts(optimizer)
        again = self.step.steps_again(optimizer)
        if again == 1:  # by a loop around the optimizer, or since forwards can't be seen any more
            self._watched.watch_all()
        elif again > 1:
            self._step_without_forward()
        self.step.optimizer_starts()
        if self.details is not None:
            self.details.optimizer_starts(optimizer)
        if self._count is not None:
            self._count.paused = True

    @for_the_host
    def optimizer_ended(self, optimizer: Optimizer) -> None:
        """Note that an optimizer has stepped."""
        if capturing():
            return
        if self.details is not None:
            self.details.optimizer_ended(optimizer)
        if self._count is not None:
            self._count.paused = False
        self.step.optimizer_ended(optimizer)
        if not self.step.ended:
            self._writer.write("step", {**_moment(), **self.step.ends()})

    @for_the_host
    def backward_called(self, tensors: Any) -> None:
        """Note a call of backward(), before the optimizer steps."""
        if not self.step.ended and not capturing():
            self._losses.called(tensors)

    @for_the_host
    def waited(self, ns: int) -> None:
        """Note the time that a DataLoader took to return a batch, or to end."""
        self.step.waited(ns)

    @for_the_host
    def loaded(self, batch: Any) -> None:
        """Note a batch from a DataLoader."""
        self._batches.put(batch)

    def switch_off(self, error: Exception) -> None:
        """Observe nothing from now on: the probe had an error."""
        self.off = True
        if self.details is not None:
            self.details.stop()
            self.details = None
        if self._count is not None:
            self._count.paused = True
            self._count = None
        self._profile.end("the probe had an error")
        self._writer.write_error(error)

    def _evaluation_forward(self, module: nn.Module, shape: Shape) -> bool:
        """Take the batch of an evaluation forward from the queue."""
        if not self._root_modules.may_be_evaluated(module):
            return False
        self._batches.take(shape)
        self._root_runs = True
        if self._count is not None:
            self._count.paused = True
        return True

    def _training_forward(self, module: nn.Module, shape: Shape) -> bool:
        second = False  # True: this opens the root's second step
        if module is not self._root_modules.root:
            if self._root_modules.is_wrapped(module):
                self._past_the_wrapper(module, shape)
                return False
            if not self._root_modules.may_replace(module):
                return False
            self._adopt(module)
        elif self.step.ended and self.details is not None:
            self._end_details(module, self.details)
            second = True
        elif self.step.ended and self._count is not None:
            self._end_count(module, self._count)
        if self._count is not None:  # it may be paused: an optimizer that was given a closure trains inside its step
            self._count.paused = False
        self.step.sees_forward()
        line: dict[str, Any] = {**_moment()}
        opens = self.step.ended
        profile = opens and self._profile.starts("forward")
        if opens:
            losses = self._losses.taken(second or profile or self.step.clock is None)
            line["before"] = {**self.step.opens_next(self._watched.unclocked_ns), **losses}
        self._losses.micro_batch()
        real, trained, targets, ids = self._batches.take(shape)
        line.update(step=self.step.index, shape=shape, real=real, trained=trained, targets=targets, ids=ids)
        self._write("forward", module, {**line, **self.step.on_device()})
        self._profile_opened_step(profile, opens)
        if self._profile.runs:
            self._profile.forward(shape)
        self._root_runs = True
        if self.details is not None:
            self.details.in_training_forward = True
        if second and self._profile_flops:
            from .counted_step import StepCount  # here: it imports parts of torch that most runs don't need

            self._count = StepCount(module)
        return True

    def _step_without_forward(self) -> None:
        """Open a step at its optimizer's start, as no forward of it was seen."""
        root = self._root_modules.root
        if root is None:
            return
        if self.details is not None:
            self._end_details(root, self.details)
        if self._count is not None:  # of more than one step
            self._count.ended()
            self._count = None
        profile = self._profile.starts("boundary")
        self._losses.taken(read=False)
        line = {**_moment(), "before": self.step.opens_next(self._watched.unclocked_ns), "step": self.step.index}
        self._write("boundary", root, {**line, "batches": self._batches.take_all(), **self.step.on_device()})
        self._profile_opened_step(profile)

    def _profile_opened_step(self, start: bool, opened: bool = True) -> None:
        """Start the profile at the step that was just opened, or let it note the step. Its own boundary is recorded before."""
        if start:
            if self.step.clock is not None:  # waits for the device: the measured steps are over
                periods = self.step.clock.awaited()
                self._writer.write("device", {**_moment(), "step": self.step.index, "device": periods})
            self._profile.start()
        elif opened and self._profile.runs:
            self._profile.boundary()

    def _end_details(self, root: nn.Module, details: FirstStep) -> None:
        self._write("work", root, describe.describe_work(root, details))
        self.details = None
        self._watched.learn(root, details)
        if not self._profile_flops:
            self._watched.watch_few()

    def _end_count(self, root: nn.Module, count: StepCount) -> None:
        self._count = None
        self._write("flops", root, {"step": self.step.index, **count.ended()})
        self._watched.watch_few()

    def _past_the_wrapper(self, module: nn.Module, shape: Shape) -> None:
        """Note that the model is trained without its wrapper: to the reader another root, and it refuses two."""
        fields = {"step": self.step.index, "shape": shape, "real": None, "trained": None}
        self._write("forward", module, {**_moment(), **fields})

    def _write(self, event: str, root: nn.Module, fields: dict[str, Any]) -> None:
        """Write an event of a root module."""
        self._writer.write(event, {"root": self._root_modules.number(root), **fields})

    def _adopt(self, module: nn.Module) -> None:
        """Make `module` the root from here on; it begins a step."""
        self._watched.watch_all()
        if self.details is not None:
            self.details.stop()
        if self._count is not None:  # the counted module turned out to be a part of the root
            self._count.ended()
            self._count = None
        self.details = None
        if self._root_modules.replace(module):
            names = [type(link).__name__ for link in describe.chain(module)]
            self._write("root", module, {"class": type(module).__name__, "wrappers": names})
            self.details = FirstStep(module)
            self._profile.new_root()
        self.step.ended = True
        if self.step.clock is None and any(parameter.is_cuda for parameter in module.parameters()):
            self.step.clock = DeviceClock()
            atexit.register(self._last_periods)

    @for_the_host
    def _last_periods(self) -> None:
        """Record the last periods. The framework is done, so waiting for the device disturbs nothing."""
        assert self.step.clock is not None
        periods = self.step.clock.awaited()
        losses = self._losses.taken(read=self.step.ended and self.step.clock.idle)
        self._writer.write("device", {**_moment(), "step": self.step.index, "device": periods, **losses})


def _moment() -> dict[str, int]:
    return {"t": time.perf_counter_ns(), "w": time.time_ns()}


def _input_shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape | None:
    """[batch, sequence] of a call's token ids: its first positional input or one of the usual names."""
    return token_shape(args[0] if args else next((kwargs[name] for name in INPUT_NAMES if name in kwargs), None))
