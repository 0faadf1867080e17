"""Compare the work that two settings really did, as the probe saw it, and put the differences into words. Pure.

Some differences are of what was done (another model, fewer positions, other weights trained, another first loss), and make
a ratio of step times one over different work. The rest are of how the same work was done (kernels, recomputation, wrappers):
the reasons for a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfubench.records.work_check import liger_switches
from mfubench.report.first_losses import first_losses_apart
from mfubench.report.pooling import Pooled

SAME_POSITIONS = 0.01  # means over samples in another order are never quite the same


@dataclass(frozen=True)
class WorkDifference:
    """Something that one setting did otherwise than another."""

    what: str
    one: str
    other: str
    same_work: bool  # it is only of how the work was done

    def __str__(self) -> str:
        return f"{self.what} {self.one} and {self.other}"


def work_differences(one: Pooled, other: Pooled) -> tuple[WorkDifference, ...]:
    """All differences between what two settings did; what isn't known of one of them is not compared."""
    runs = [pooled.ok[0] for pooled in (one, other) if pooled.ok]
    sides = [run.work or {} for run in runs]
    if len(sides) < 2 or not all(sides):
        return ()
    if any(run.hardware and run.hardware.device == "cpu" for run in runs):
        sides = [{**side, "tf32": None} for side in sides]  # a switch that changes nothing on a CPU
    found = []
    for same_work, told in ((False, _what), (True, _how)):
        a, b = (told(side) for side in sides)
        found += [
            WorkDifference(key, a[key] or "", b[key] or "", same_work)
            for key in a
            if a[key] is not None and b[key] is not None and a[key] != b[key]
        ]
    positions = [pooled.figure("positions_per_step") for pooled in (one, other)]
    if all(positions):
        a_mean, b_mean = (figure.mean for figure in positions if figure)
        if abs(a_mean - b_mean) > SAME_POSITIONS * max(a_mean, b_mean):
            found.insert(0, WorkDifference("positions per step", f"{a_mean:,.0f}", f"{b_mean:,.0f}", False))
    losses = first_losses_apart(one, other)
    if losses is not None:
        found.insert(0, WorkDifference("loss of the first step", *losses, False))
    return tuple(found)


def _what(work: Mapping[str, Any]) -> dict[str, str | None]:
    stepped = {name for optimizer in work["optimizers"] for part in ("steps", "state") for name in optimizer[part]}
    return {
        "model": work["model"],
        "parameters": _count(work.get("parameters")),
        "trainable parameters": _count(work["trainable_parameters"]),
        "processes": str(work["world_size"]),
        "dtype multiplied in": work.get("linear_dtype"),
        "4-bit weights": None if work.get("quantized") is None else _list(work["quantized"]),
        "optimizer": _list(optimizer["class"] for optimizer in work["optimizers"]),
        "dtype that the optimizer steps": _list(stepped),
    }


def _how(work: Mapping[str, Any]) -> dict[str, str | None]:
    attention, calls = work["attention"]["implementation"], work["attention"].get("sdpa_calls")
    causal = work["attention"].get("sdpa_causal_calls")
    masked = " with a mask" if calls and causal is not None and causal != calls else ""
    blocks = sum((work.get("recomputed") or {}).values())
    fused = {bool(optimizer.get("fused")) for optimizer in work["optimizers"]}
    return {
        "recomputation": work["recomputation"] and work["recomputation"] + (f" of {blocks} blocks" if blocks else ""),
        "attention": attention and attention + masked,
        "Liger kernels": _list(liger_switches(work["liger_kernels"])),
        "wrapper": _list(work["parallel_wrappers"][:1]),
        "ZeRO stage": None if work.get("zero_stage") is None else str(work["zero_stage"]),
        "compiled": "yes" if work["compiled"] else "no",
        "fused optimizer": " and ".join("yes" if each else "no" for each in sorted(fused)),
        "TF32": None if work.get("tf32") is None else "yes" if work["tf32"] else "no",
    }


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _list(names: Any) -> str:
    return ", ".join(sorted(set(names))) or "none"
