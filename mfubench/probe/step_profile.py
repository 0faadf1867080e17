"""Profile a few steps when mfubench asks for it, after the measured ones, and write the raw events of this process.

The request is `profile.json` in the records folder: `first`, the first step to profile, `steps`, their number, and
`keep_trace`. It is looked for once a step; a later one may name an earlier step. Steps are counted from 0 as the reader
counts its periods: from the present root's first boundary, or from the first of another kind.
The profiler starts a step early, as the first step under it is unlike the others, and all ranks stop at the same boundary;
on a GPU a step late, since the kernels of the next step end the last one. Nothing measured may come after: CUPTI stays
attached.

`profile.rank<N>.json` is written whole, and always: it has `skipped`, a reason, or
| field | |
|---|---|
| names | of all events; the columns hold indices into it |
| boundaries | the host's clock at each profiled step's begin, and at the last one's end |
| host | columns of operators and ranges: name, start, duration, thread, scope (0: operator), asynchronous (0 or 1) |
| device | columns of kernels, copies and fills: name, start, duration, stream, operator (a row of `host`, or -1), launched |
| shapes | [batch, sequence] of each training forward in the profiled steps |

Times are in ns since the first boundary. `launched` is the host's clock when a kernel was launched, null if that isn't known.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import re
from typing import Any, Iterable, Sequence

import torch
from torch._C._autograd import DeviceType
from torch.autograd import profiler

from .batches import Shape
from .events import Writer

MARK = "mfubench::boundary"
LAUNCH = re.compile(r"^(cu|cuda|hip)(Ext|Module)?Launch")  # of a kernel, not of a copy, for which the host may wait
RUNTIME = re.compile(r"^(cu|cuda|hip)[A-Z]")
# Kineto's warnings stay out of the framework's log, and CUPTI attached: taking it down under CUDA graphs has crashed.
ENVIRONMENT = {"KINETO_LOG_LEVEL": "6", "TEARDOWN_CUPTI": "0", "DISABLE_CUPTI_LAZY_REINIT": "1"}
TAKEN_OVER = "the framework's own profiler took over"


class StepProfile:
    """The profile of one process. Its errors are reasons for `skipped`; they never turn the observer off."""

    def __init__(self, writer: Writer) -> None:
        self.over = False  # it is written
        self.runs = False
        self._writer = writer
        self._path = os.path.join(writer.folder, "profile.json")
        self._changed = 0  # ns: the request's time of change
        self._request: dict[str, Any] = {}
        self._profiler: Any = None
        self._shapes: list[Shape] = []
        self._step = -1
        self._kind = ""

    def new_root(self) -> None:
        """Count from 0 again."""
        self._kind = ""

    def starts(self, kind: str) -> bool:
        """Count a step that begins at a boundary of this kind, and look for the request. True: the profiler is to start."""
        self._step = self._step + 1 if kind == self._kind else 0
        self._kind = kind
        if self.over or self.runs:
            return False
        try:
            changed = os.stat(self._path).st_mtime_ns
            if changed != self._changed:
                with open(self._path, encoding="utf-8") as file:
                    request = json.load(file)
                if not self._request:
                    atexit.register(self.end, "training ended before it was whole")
                self._changed, self._request = changed, request
        except OSError:
            return False
        if self._step >= self._request["first"]:
            self._skip(f"step {self._step} had begun when it was to begin with step {self._request['first']}")
        return bool(self._step == self._request["first"] - 1)

    def start(self) -> None:
        """Start the profiler, unless another one runs: both would lose their events."""
        try:
            if torch._C._autograd._profiler_enabled() or getattr(profiler, "_is_profiler_enabled", False):
                self._skip("the framework's own profiler is on")
                return
            self._writer.write("profile", {"step": self._step})
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            device = "cuda" if torch.cuda.is_initialized() else None
            self._profiler = profiler.profile(use_cpu=True, use_kineto=True, use_device=device)
            self._profiler.__enter__()
            self.runs = True
        except Exception as error:
            self._skip(repr(error))

    def boundary(self) -> None:
        """Note the begin of a step under the profiler; the one after the last stops it."""
        step, first, steps = self._step, self._request["first"], self._request["steps"]
        try:
            if step == first:
                self._shapes.clear()
            if first <= step <= first + steps:
                with profiler.record_function(MARK):
                    pass
            if step >= first + steps + (self._profiler.use_device is not None):
                self._stop()
        except Exception as error:
            self._skip(repr(error))

    def forward(self, shape: Shape) -> None:
        """Note a training forward under the profiler."""
        self._shapes.append(shape)

    def _stop(self) -> None:
        self.runs = False
        try:
            self._profiler.__exit__(None, None, None)
        except RuntimeError as error:
            self._skip(f"{TAKEN_OVER}: {error}")
            return
        results = self._profiler.kineto_results
        collects = gc.isenabled()
        gc.disable()  # it would look at each event again and again
        try:
            content = columns(results.events(), self._request["steps"])
        finally:
            if collects:
                gc.enable()
        if content is None:
            self._skip(TAKEN_OVER)
            return
        if self._request["keep_trace"]:
            path = self._file("trace")
            results.save(f"{path}.part")
            os.replace(f"{path}.part", path)
        self._end({**content, "shapes": self._shapes})

    def _skip(self, reason: str) -> None:
        self._end({"skipped": reason})

    def end(self, reason: str) -> None:
        """Stop the profiler before its time, since a process that ends with it on crashes."""
        if self.over or not self._request:
            return
        if self.runs:
            with contextlib.suppress(RuntimeError):  # another profiler took over, and has stopped
                self._profiler.__exit__(None, None, None)
        self._skip(reason)

    def _end(self, content: dict[str, Any]) -> None:
        """Write the file; a disk that is full leaves none."""
        self.over, self.runs = True, False
        self._profiler = None  # hundreds of megabytes
        path = self._file("profile")
        with contextlib.suppress(OSError):
            with open(f"{path}.part", "w", encoding="utf-8") as file:
                file.write(json.dumps(content, separators=(",", ":")))
            os.replace(f"{path}.part", path)

    def _file(self, kind: str) -> str:
        rank = int(os.environ.get("RANK") or 0)
        return os.path.join(self._writer.folder, f"{kind}.rank{rank}.json")


def columns(events: Iterable[Any], steps: int) -> dict[str, Any] | None:
    """The file's columns of Kineto's events; None if these lack boundaries, as they do after another profiler."""
    events = [event for event in events if not getattr(event, "is_hidden_event", bool)()]
    marks = sorted(
        event.start_ns() for event in events if event.name() == MARK and event.device_type() == DeviceType.CPU
    )
    if len(marks) != steps + 1:
        return None
    begin, end = marks[0], marks[-1]
    names: dict[str, int] = {}
    host: list[tuple[int, ...]] = []
    device: list[Any] = []
    rows: dict[int, int] = {}  # operator's correlation id -> its row
    launched: dict[int, int] = {}  # runtime call's correlation id -> its start
    for event in events:
        start, duration, name = event.start_ns() - begin, event.duration_ns(), event.name()
        if event.device_type() != DeviceType.CPU:
            if not event.is_user_annotation():
                device.append((event, start, duration, names.setdefault(name, len(names))))
            continue
        called = RUNTIME.match(name)
        if called:
            launched[event.correlation_id()] = start
        if name == MARK or LAUNCH.match(name) or start + duration < 0 or start > end - begin:
            continue
        if not called:
            rows[event.correlation_id()] = len(host)
        number = names.setdefault(name, len(names))
        host.append((number, start, duration, event.start_thread_id(), event.scope(), int(event.is_async())))
    kernels = [
        (
            *(number, start, duration, event.device_resource_id()),
            *(rows.get(event.linked_correlation_id(), -1), launched.get(event.correlation_id())),
        )
        for event, start, duration, number in device
    ]
    return {
        "names": list(names),
        "boundaries": [mark - begin for mark in marks],
        "host": _table(("name", "start", "duration", "thread", "scope", "asynchronous"), host),
        "device": _table(("name", "start", "duration", "stream", "operator", "launched"), kernels),
    }


def _table(names: tuple[str, ...], rows: Sequence[tuple[int | None, ...]]) -> dict[str, list[int | None]]:
    return dict(zip(names, map(list, zip(*rows)))) if rows else {name: [] for name in names}
