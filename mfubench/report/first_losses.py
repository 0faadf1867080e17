"""Compare the losses of two settings' first steps: the proof that both trained the same model on the same tokens. Pure.

Comparable are mean losses over the same token ids and targets, of the same weights in the same precision. The last step's
loss isn't compared: dropout and the schedule of the learning rate have changed it by then.
"""

from __future__ import annotations

from mfubench.report.pooling import Pooled
from mfubench.result.result_file import Result

# As fractions of the loss, by the precision of the matrix products; docs/accuracy.md says how they were measured.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-4}


def first_losses_apart(one: Pooled, other: Pooled) -> tuple[str, str] | None:
    """Return both losses if they differ by more than arithmetic explains; None if they don't, or aren't comparable."""
    runs = _with_losses(one, other)
    if len(runs) < 2 or _reason(*runs):
        return None
    a, b = (run.measurement.loss_first or 0.0 for run in runs if run.measurement)
    return None if abs(a - b) <= _tolerance(runs[0]) * max(a, b) else (f"{a:.7g}", f"{b:.7g}")


def not_comparable(one: Pooled, other: Pooled) -> str:
    """Return why the first losses of two settings aren't comparable; empty if they are, or if neither is known."""
    runs = _with_losses(one, other)
    if len(runs) == 1:
        return f"that of {(one if runs[0] in other.ok else other).ok[0].framework} isn't known"
    return _reason(*runs) if runs else ""


def _with_losses(one: Pooled, other: Pooled) -> list[Result]:
    """Return the first run of each, if its loss is known."""
    runs = [pooled.ok[0] for pooled in (one, other) if pooled.ok]
    return [run for run in runs if run.measurement and run.measurement.loss_first is not None and run.work]


def _reason(one: Result, other: Result) -> str:
    if any("experts" in key for key in one.settings["model"]["architecture"]):
        return "a mixture of experts may add its router's loss"
    works = [run.work or {} for run in (one, other)]
    for what, values in {"token ids": 0, "trained tokens": 1}.items():
        recorded = [[batch[values] for batch in work.get("first_step") or [[None, None]]] for work in works]
        if any(None in of_one for of_one in recorded):
            return f"the {what} of the first step aren't known"
        if sorted(recorded[0]) != sorted(recorded[1]):
            return f"other {what} in the first step"
    if (precision := [_precision(run) for run in (one, other)])[0] != precision[1]:
        return f"{precision[0]} and {precision[1]}"
    weights = [_weights(run) for run in (one, other)]
    return "" if weights[0] == weights[1] else f"other weights ({weights[0]} and {weights[1]})"


def _precision(run: Result) -> str:
    """Return the precision, and the type of 4-bit weights."""
    quantized = (run.work or {}).get("quantized") or {}
    return " ".join([run.hardware.precision if run.hardware else "", *sorted(quantized)])


def _weights(run: Result) -> str:
    """Return the origin of the weights; those that a framework draws itself are the same in the same circumstances."""
    model, framework, seed = run.settings["model"], run.settings["framework"], f"seed {run.settings['seed']}"
    if model["weights"] == "hub":
        return f"{model['hub_id']} {model['revision'] or ''}".rstrip()
    if framework["random_weights"] == "disk":
        return f"the disk's, {seed}"
    device = run.hardware.device if run.hardware else ""
    return f"{run.framework}'s own on {device}, {run.settings['parallelism']['name']}, {seed}"


def _tolerance(run: Result) -> float:
    """Return that of the products: on a GPU, fp32 runs in TF32, whose mantissa is about as short as bf16's."""
    whole = run.hardware is not None and run.hardware.precision == "fp32" and run.hardware.device == "cpu"
    return TOLERANCE["fp32" if whole else "bf16"]
