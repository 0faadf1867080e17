"""Find Liger's kernels in a model: the names of everything that runs instead of the model's own code.

Liger replaces forwards, of classes and of single modules, and functions: those that a modeling module calls by a global
name, and torch's own cross entropy. Replacements in modules outside this model don't count.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch.nn.functional as F
from torch import nn


def find_liger_kernels(root: nn.Module) -> list[str]:
    """Names like `liger_kernel.transformers.rms_norm.LigerRMSNorm`, sorted; for a forward, the class it comes from."""
    if "liger_kernel" not in sys.modules:
        return []
    modules = list(root.modules())
    callables: list[Any] = [F.cross_entropy, *(module.forward for module in modules)]
    for name in {base.__module__ for kind in map(type, modules) for base in kind.__mro__}:
        if name in sys.modules and not name.startswith("liger_kernel"):
            callables += [value for value in vars(sys.modules[name]).values() if inspect.isroutine(value)]
    return sorted({_qualified_name(each) for each in map(_undecorated, callables) if _is_liger(each)})


def _undecorated(function: Any) -> Any:
    """The function inside mixed precision's wrapper, which covers the whole model's forward, Liger's or not."""
    return inspect.unwrap(getattr(function, "__func__", function), stop=_is_liger)


def _is_liger(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").startswith("liger_kernel")


def _qualified_name(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}".removesuffix(".forward")
