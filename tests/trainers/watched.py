"""Runs a training program as __main__, and notes before each optimizer step what it is given and what ran since the last.

python watched.py PROGRAM ARGUMENTS    writes seen<rank>.jsonl into the working folder
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from hashlib import sha256
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

calls: list[str] = []
roots: list[list[int]] = []
tokens: list[int] = []
linears: list[bool] = []  # whether each ran with gradients enabled
outputs: set[str] = set()


def digest(tensors: list[torch.Tensor]) -> str:
    """The values of all, whatever tensors they are in."""
    values = torch.cat([tensor.detach().float().flatten() for tensor in tensors]).sort().values
    return sha256(values.numpy().tobytes()).hexdigest()


def before(module: torch.nn.Module, arguments: Any) -> None:
    """A module is about to run."""
    calls.append(type(module).__name__)
    if type(module) is torch.nn.Linear:
        linears.append(torch.is_grad_enabled())
    if type(module) is torch.nn.Embedding:
        roots.append(list(arguments[0].shape))
        tokens.append(arguments[0].sum().item())


def after(module: torch.nn.Module, arguments: Any, output: Any) -> None:
    """A module has run."""
    if type(module) is torch.nn.Linear:
        outputs.add(str(output.dtype))


def step(optimizer: torch.optim.Optimizer, arguments: Any, keywords: Any) -> None:
    """An optimizer is about to step."""
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    seen = {
        "optimizer": type(optimizer).__name__,
        "wrapper": calls[0] if calls else None,
        "dtypes": sorted({str(parameter.dtype) for parameter in given}),
        "moments": sorted({str(moment.dtype) for moment in moments if moment.dim()}),
        "parameters": sum(parameter.numel() for parameter in given),
        "tensors": len(given),
        "with_gradient": sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in given),
        "digest": digest(given),
        "sum": sum(parameter.double().sum().item() for parameter in given),
        "gradient": sum(p.grad.double().sum().item() for p in given if p.grad is not None),
        "roots": roots,
        "tokens": tokens,
        "outputs": sorted(outputs),
        "linears": len(linears),
        "without_graph": linears.count(False),
    }
    with open(f"seen{os.environ.get('RANK', '0')}.jsonl", "a") as lines:
        lines.write(json.dumps(seen) + "\n")
    for kept in (calls, roots, tokens, linears):
        kept.clear()
    outputs.clear()


register_module_forward_pre_hook(before)
register_module_forward_hook(after)
register_optimizer_step_pre_hook(step)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
# What is tested is over. Why not the interpreter's own end: see rank.leave.
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
