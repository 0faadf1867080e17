"""Write a process's records: one JSON object a line, in `rank<N>.jsonl`.

| event | when | fields |
|---|---|---|
| start | first training forward | pid, rank, local_rank, world_size, node (as in the environment), python, argv, versions |
| root | a new root module | root, class, wrappers (outermost first, the model last) |
| forward | every training forward | t, w, root, step, shape [batch, sequence], the counts (or null), device, before |
| boundary | a step that began with no forward in sight | t, w, root, step, batches, device, before |
| step | every optimizer step | t, w, step, peak_memory_bytes, memory_kind, device |
| device | at exit, CUDA only | t, w, step, device, losses |
| work | once per root, after its first optimizer step | the fields of `describe` |
| flops | once per root, after its second optimizer step, if asked | root, step, compiled, flops, by_operator, uncounted |
| probe_error | the probe turned itself off | error, pid |
| profile | its profiler starts (step_profile.py): the events after it are of no measured step | step, as it counts them |

`t` is the monotonic clock and `w` the time of day, both in ns. `step` counts optimizer steps from 0; a forward's is the
step it belongs to. Its counts are `real`, `trained` and `targets` (tokens attended to, with a label, and with a label and
a position before them) and `ids`, a checksum of token ids. Root -1 is a call of the wrapped
model past its wrapper. `flops` are null if torch.compile compiled part of the step; `uncounted` are operators that may
multiply matrices and have no formula, with their shapes -> calls. `device` (CUDA only) lists [step, s, s]: device time
between the first forwards of step - 1 and step, and the part of it up to the start of the optimizer (or null).

A `boundary` is the start of an optimizer that steps parameters again; its `batches` are [shape, [real, trained, targets, ids]]
of the micro-batches that DataLoaders returned since the last one.

`before`, in a step's first forward or boundary, describes the previous step from its own on:
| field | |
|---|---|
| gradients | tensors with a gradient when its optimizers had stepped |
| recomputed_calls | outermost module calls in its backward passes |
| optimizer_t | the host's monotonic clock when its first optimizer started, or null |
| loading_ns | the training thread's time in DataLoaders; null if it never asked one for a batch |
| losses | see below; on CUDA only of a root's first step, since reading them waits for the device |
| probe_ns | the probe's time on the host: its hooks by the clock, calls inside the root by number and a cost |

`losses` has a value for each training forward of a step: the last scalar on which backward() was called before the next
forward or the optimizer, as the framework scales it; null if there was none, or if it was changed in place. In a `device`
line they are of the last step; not there if that has no optimizer step.

The file is opened at the first training forward, so a launcher that only imports torch writes nothing. Lines are
written whole and at once, since workers are killed, not left to finish.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from typing import Any, TextIO


class Writer:
    """Append events to this process's file, opened at the first one."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._file: TextIO | None = None

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write one line. Raises OSError, and TypeError for fields that JSON cannot hold."""
        if self._file is None:
            self._file = _open_exclusively(self.folder)
            self.write("start", _start_fields())
        self._file.write(json.dumps({"event": event, **fields}) + "\n")

    def write_error(self, error: Exception) -> None:
        """Record an error of the probe; before the first training forward in a file of its own."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__)[-3:])
        line = json.dumps({"event": "probe_error", "error": text, "pid": os.getpid()}) + "\n"
        try:
            if self._file is not None:
                self._file.write(line)
            else:
                with open(os.path.join(self.folder, f"errors.{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
                    file.write(line)
        except OSError:
            pass  # nowhere left to report it; the reader finds no records


def _open_exclusively(folder: str) -> TextIO:
    """The file of this rank. A second process of the same rank gets a name that shows the reader so."""
    rank = os.environ.get("RANK") or "0"
    path = os.path.join(folder, f"rank{int(rank)}.jsonl")
    try:
        return open(path, "x", buffering=1, encoding="utf-8")
    except FileExistsError:
        return open(f"{path[: -len('.jsonl')]}.{os.getpid()}.jsonl", "x", buffering=1, encoding="utf-8")


def _start_fields() -> dict[str, Any]:
    import importlib.metadata  # here: every Python process of the run loads this module, few train

    installed = [distribution.metadata for distribution in importlib.metadata.distributions()]
    return {
        "pid": os.getpid(),
        "rank": int(os.environ.get("RANK") or 0),
        "local_rank": int(os.environ.get("LOCAL_RANK") or 0),
        "world_size": int(os.environ.get("WORLD_SIZE") or 1),
        "node": os.environ.get("MFUBENCH_NODE"),
        "python": platform.python_version(),
        "argv": sys.argv,
        "versions": {each["Name"]: each["Version"] for each in installed if each["Name"]},
    }
