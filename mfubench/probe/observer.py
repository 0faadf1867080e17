"""What happens in this process, as events. In: calls of modules, optimizer events, batches. Out: lines of `events`.

A training forward is an outermost call of the root module, outside a backward pass, with gradients enabled and an
integer [batch, sequence] input. The root is the module called that way; one that contains the old root (a wrapper put
around it later) takes its place. Everything optimizers do between two training forwards is one step, because sharding
engines and per-parameter optimizers step several times; what they do before the first one (warm up states) is none.

A model called only inside a function that is compiled as a whole is not seen.
"""

from __future__ import annotations

import atexit
import itertools
import resource
import time
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from . import work
from .batches import INPUT_NAMES, BatchQueue, Shape, token_shape, watch_loaders
from .device_clock import DeviceClock
from .events import Writer
from .first_step import FirstStep
from .module_calls import watch_module_calls

if TYPE_CHECKING:
    from .in_situ import StepCount


def install(writer: Writer, profile_flops: bool) -> None:
    """Observes every module call, optimizer step and loaded batch of this process from now on.

    `profile_flops`: counts the FLOPs of the root's second step as well.
    """
    observer = Observer(writer, profile_flops)
    watch_module_calls(observer)
    register_optimizer_step_pre_hook(lambda optimizer, _args, _kwargs: observer.optimizer_starts(optimizer))
    register_optimizer_step_post_hook(lambda optimizer, _args, _kwargs: observer.optimizer_ended(optimizer))
    watch_loaders(observer.loaded)


class Observer:
    """Follows one process. Every public method is called from the host's code and never raises."""

    def __init__(self, writer: Writer, profile_flops: bool) -> None:
        self.details: FirstStep | None = None  # what the first step of the root does; None once that is known
        self._writer = writer
        self._profile_flops = profile_flops
        self._count: StepCount | None = None  # while the root's second step is counted
        self._batches = BatchQueue()
        self._clock: DeviceClock | None = None  # CUDA only
        self._off = False
        self._root: weakref.ref[nn.Module] | None = None
        self._root_ids: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()  # of roots
        self._root_runs = False
        self._step = -1  # index of the current optimizer step
        self._stepped = True  # the optimizer has finished the current step; the next training forward opens another
        self._gradients = 0  # of the current step: tensors with a gradient, as its optimizers found them
        self._recomputed_calls = 0  # of the current step: outermost calls in its backward passes

    def outermost_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """A module was called outside any other in this thread. True: it is the root, `root_returned` must follow."""
        # While the root runs, other threads' outermost calls are parts of it (nn.DataParallel's replicas).
        if self._off or self._root_runs:
            return False
        try:
            shape = _input_shape(args, kwargs)
            in_backward = torch._C._current_graph_task_id() != -1
            if in_backward:
                self._recomputed_calls += 1
                if self.details is not None:
                    self.details.recomputed_call(module)
            if shape is None or in_backward:
                return False
            if not torch.is_grad_enabled():
                return self._evaluation_forward(module, shape)
            return self._training_forward(module, shape)
        except Exception as error:
            self.switch_off(error)
            return False

    def inner_call(self, module: nn.Module) -> None:
        """A module was called inside another one, while details are wanted."""
        try:
            if self._root_runs and self.details is not None:
                self.details.inner_call(module)
        except Exception as error:
            self.switch_off(error)

    def root_returned(self) -> None:
        """The root call that `outermost_call` reported is over."""
        self._root_runs = False
        if self.details is not None:
            self.details.in_training_forward = False
        if self._count is not None:
            self._count.paused = False

    def optimizer_starts(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step: the gradients it is going to use are there."""
        if self._off:
            return
        try:
            self._gradients += sum(p.grad is not None for group in optimizer.param_groups for p in group["params"])
            if self.details is not None:
                self.details.optimizer_starts(optimizer)
            if self._count is not None:
                self._count.paused = True
        except Exception as error:
            self.switch_off(error)

    def optimizer_ended(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        if self._off:
            return
        try:
            if self.details is not None:
                self.details.optimizer_ended(optimizer)
            if self._count is not None:
                self._count.paused = False
            if not self._stepped:
                self._stepped = True
                peak, kind = self._peak_memory()
                moment: dict[str, Any] = {"t": time.perf_counter_ns(), "w": time.time_ns(), "step": self._step}
                if self._clock is not None:
                    moment["device"] = self._clock.resolved()
                self._writer.write("step", {**moment, "peak_memory_bytes": peak, "memory_kind": kind})
        except Exception as error:
            self.switch_off(error)

    def loaded(self, batch: Any) -> None:
        """A DataLoader has handed out a batch."""
        if self._off:
            return
        try:
            self._batches.put(batch)
        except Exception as error:
            self.switch_off(error)

    def switch_off(self, error: Exception) -> None:
        """The probe made a mistake: it observes nothing any more."""
        self._off = True
        if self.details is not None:
            self.details.stop()
            self.details = None
        if self._count is not None:
            self._count.paused = True
            self._count = None
        self._writer.write_error(error)

    def _evaluation_forward(self, module: nn.Module, shape: Shape) -> bool:
        """Evaluation uses up batches; it may call the model inside its wrappers."""
        root = self._root() if self._root is not None else None
        if not any(module is link for link in work.chain(root)) if root is not None else not module._modules:
            return False
        self._batches.take(shape)
        self._root_runs = True
        if self._count is not None:
            self._count.paused = True
        return True

    def _training_forward(self, module: nn.Module, shape: Shape) -> bool:
        root = self._root() if self._root is not None else None
        second = False  # whether this opens the root's second step
        if module is not root:
            # Parts may be called on their own, and an embedding before the root is known.
            if root is not None and any(module is link for link in work.chain(root)[1:]):
                self._past_the_wrapper(module, shape)
                return False
            if not module._modules or (root is not None and any(part is module for part in root.modules())):
                return False
            self._adopt(module)
        elif self._stepped and self.details is not None:
            self._writer.write("work", {"root": self._root_ids[module], **work.describe(module, self.details)})
            self.details = None
            second = True
        elif self._stepped and self._count is not None:
            self._end_count(module)
        t, w = time.perf_counter_ns(), time.time_ns()
        line: dict[str, Any] = {"t": t, "w": w, "root": self._root_ids[module]}
        if self._stepped:
            line["before"] = [self._gradients, self._recomputed_calls]
            self._gradients = self._recomputed_calls = 0
            self._stepped = False
            self._step += 1
            if self._clock is not None:
                self._clock.boundary(self._step)
        real, trained, ids = self._batches.take(shape)
        line.update(step=self._step, shape=shape, real=real, trained=trained, ids=ids)
        if self._clock is not None:
            line["device"] = self._clock.resolved()
        self._writer.write("forward", line)
        self._root_runs = True
        if self.details is not None:
            self.details.in_training_forward = True
        if second and self._profile_flops:
            from .in_situ import StepCount  # here: it needs more of torch than most runs do

            self._count = StepCount(module)
        return True

    def _end_count(self, root: nn.Module) -> None:
        assert self._count is not None
        count, self._count = self._count, None
        self._writer.write("flops", {"root": self._root_ids[root], "step": self._step, **count.ended()})

    def _past_the_wrapper(self, module: nn.Module, shape: Shape) -> None:
        """The model is trained without what is around it: another root to the reader, who refuses two."""
        number = self._root_ids.setdefault(module, -1)
        moment = {"t": time.perf_counter_ns(), "w": time.time_ns(), "root": number, "step": self._step}
        self._writer.write("forward", {**moment, "shape": shape, "real": None, "trained": None})

    def _adopt(self, module: nn.Module) -> None:
        """`module` is the root from here on, and begins a step."""
        if self.details is not None:
            self.details.stop()
        if self._count is not None:  # of what turns out to be a part of the root
            self._count.ended()
            self._count = None
        self._root = weakref.ref(module)
        self.details = None
        if module not in self._root_ids:
            number = self._root_ids[module] = next(self._numbers)
            names = [type(link).__name__ for link in work.chain(module)]
            self._writer.write("root", {"root": number, "class": type(module).__name__, "wrappers": names})
            self.details = FirstStep(module)
        self._stepped = True
        if self._clock is None and any(parameter.is_cuda for parameter in module.parameters()):
            self._clock = DeviceClock()
            atexit.register(self._last_periods)

    def _last_periods(self) -> None:
        """The framework is done, so waiting for the device disturbs nothing: the periods it was behind with."""
        if self._off or self._clock is None:
            return
        try:
            found = self._clock.awaited()
            if found:
                self._writer.write("device", {"device": found})
        except Exception as error:
            self.switch_off(error)

    def _peak_memory(self) -> tuple[int, str]:
        if self._clock is not None:
            return torch.cuda.max_memory_allocated(), "cuda_max_allocated"
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process_peak_rss"  # Linux counts in KiB


def _input_shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape | None:
    """[batch, sequence] of a call's token ids: its first positional input or one of the usual names."""
    return token_shape(args[0] if args else next((kwargs[name] for name in INPUT_NAMES if name in kwargs), None))
