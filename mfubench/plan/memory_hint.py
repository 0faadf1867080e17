"""Say before the start that a run can't fit on its device by the estimate, and which settings would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from mfubench.config import ConfigError
from mfubench.config.defaults import mode_of
from mfubench.config.schema import GradientCheckpointing
from mfubench.plan import support
from mfubench.plan.prepare import Prepared, Target, check, expected_memory

STATES_BYTES = 16  # of a parameter in training, in mixed precision with Adam
SMALL_SHARE = 0.1  # of a device's memory: an estimate takes seconds, which a small model isn't worth


@dataclass(frozen=True)
class Change:
    """A setting that needs less memory, as it is typed and as fields of the Experiment."""

    typed: str
    fields: Mapping[str, Any]


def hint_at_memory(prepared: Prepared, console: Console) -> None:
    """Print the hint, if there is one. It refuses nothing: an estimate is an estimate."""
    target, memory_bytes = prepared.target, memory_of_a_rank(prepared.target)
    states = STATES_BYTES * prepared.flops.parameters
    if memory_bytes is None or (states < SMALL_SHARE * memory_bytes and not target.experiment.dry_run):
        return
    hint = memory_hint(target, memory_bytes)
    if hint is not None:
        console.print(hint, style="yellow", markup=False, highlight=False, soft_wrap=True)


def memory_hint(target: Target, memory_bytes: int) -> str | None:
    """Say which settings fit, each by itself or else together; None if it fits, or if nothing can be estimated."""
    try:
        needed = expected_memory(target).total
    except ValueError:  # a framework's YAML may name an optimizer that no formula knows
        return None
    if needed <= memory_bytes:
        return None
    changes = tuple(_changes(target))
    singly = [way for change in changes if (way := _fitting(target, (change,), memory_bytes))]
    together = (_fitting(target, changes[:count], memory_bytes) for count in range(2, len(changes) + 1))
    fitting = singly or list(filter(None, [next(filter(None, together), None)]))
    ways = " or ".join(fitting) if fitting else "no change of precision, checkpointing, batch or mode"
    return (
        f"by the estimate a device needs {needed / 2**30:,.1f} GiB, and it has {memory_bytes / 2**30:,.1f}: it will probably "
        f"run out of memory; by the same estimate what fits is {ways}"
    )


def memory_of_a_rank(target: Target) -> int | None:
    """Return the bytes that a rank may use: a GPU's memory, or its share of the host's; None if that isn't known."""
    here = target.machine.memory_bytes
    return here if here is None or target.machine.device == "cuda" else here // target.devices_here


def _fitting(target: Target, changes: Sequence[Change], memory_bytes: int) -> str | None:
    """Return the changes as they are typed, with their memory, if they fit and the framework can do them here."""
    fields = {name: value for change in changes for name, value in change.fields.items()}
    experiment = replace(target.experiment, **fields)
    changed = replace(target, experiment=experiment, precision=fields.get("precision", target.precision))
    try:
        check(changed)
        needed = expected_memory(changed).total
    except (ConfigError, support.Unsupported, ValueError):
        return None
    return (
        f"{' '.join(change.typed for change in changes)} ({needed / 2**30:,.1f} GiB)"
        if needed <= memory_bytes
        else None
    )


def _changes(target: Target) -> Iterator[Change]:
    """Yield what may help; changes that change the work least first."""
    asked = target.experiment
    if asked.gradient_checkpointing.name == "none":
        yield Change(
            "gradient_checkpointing=non_reentrant", {"gradient_checkpointing": GradientCheckpointing("non_reentrant")}
        )
    if asked.batch_size > 1:
        yield Change("batch_size=1", {"batch_size": 1})
    if target.precision == "bf16":
        yield Change("precision=bf16_pure", {"precision": "bf16_pure"})
    if not asked.mode.has_adapters:
        yield Change("mode=lora", {"mode": mode_of("lora")})
