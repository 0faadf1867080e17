"""Writes weights.sha256 into the run folder: a digest of all values that the first optimizer step of a process is about to move.

It doesn't depend on how a framework names, joins or orders its tensors. Python imports this first, if the folder is on
PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any


class WhenImported:
    """Asks torch to be told of optimizer steps, when the framework imports it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's spec, which does a bit more; None for any other module."""
        if name != "torch.optim.optimizer":
            return None
        sys.meta_path.remove(self)
        spec: Any = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            module.register_optimizer_step_pre_hook(write)

        spec.loader.exec_module = exec_module
        return spec


def write(optimizer: Any, arguments: Any, keywords: Any) -> None:
    """Write the digest of an optimizer's weights, once."""
    import torch

    file = Path(os.environ["MFUBENCH_RECORDS"]).parent / "weights.sha256"
    if file.exists():
        return
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values = torch.cat([parameter.detach().float().flatten() for parameter in given]).sort().values
    file.write_text(hashlib.sha256(values.numpy().tobytes()).hexdigest())


if "MFUBENCH_RECORDS" in os.environ:
    sys.meta_path.insert(0, WhenImported())
