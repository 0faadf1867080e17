"""Choose what W&B shows of a result: its config, its steps, its summary and its tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mfubench.result import Result


def config(result: Result) -> dict[str, Any]:
    """Return the settings, nested as in conf/, with the detected `hardware` and the framework's `label` with its engine."""
    return {
        **result.settings,
        "engine": result.engine,
        "framework": {**result.settings["framework"], "label": result.framework},
        "hardware": {**result.settings["hardware"], **(asdict(result.hardware) if result.hardware else {})},
        "work": result.work,
        "provenance": asdict(result.provenance),
    }


def history(result: Result) -> list[dict[str, float]]:
    """A row per step; none unless the run is ok."""
    return [dict(row) for row in result.history] if result.status == "ok" else []


def summary(result: Result) -> dict[str, Any]:
    """Return the scalars of a result, each a column in W&B; what isn't known is left out.

    They are status, reason and kinds of warnings; for an ok run every figure with its interval, and the conditions of each
    device (`device_0_power_w_mean`). `profiled_tflop_per_step` is what PyTorch's counter counts (hardware FLOPs), per optimizer
    step and device; `profiled_in_situ_tflop_per_step` is the same of one warm-up step, counted in the framework's process.
    """
    figures: dict[str, Any] = {"status": result.status, "reason": result.reason}
    figures["warnings"] = ", ".join(_kinds(result)) or None
    if result.status == "ok":
        assert result.measurement is not None and result.flops is not None
        intervals = result.measurement.ci95
        figures |= {name: figure for name, figure in asdict(result.measurement).items() if name != "ci95"}
        figures |= {f"{name}_ci95_low": low for name, (low, _) in intervals.items()}
        figures |= {f"{name}_ci95_high": high for name, (_, high) in intervals.items()}
        figures["profiled_tflop_per_step"] = result.flops.hardware_flops / 1e12
        figures["model_tflop_per_step"] = result.flops.model_flops / 1e12
        if result.in_situ and result.in_situ.flops:
            figures["profiled_in_situ_tflop_per_step"] = result.in_situ.flops / 1e12
        for index, conditions in enumerate(result.conditions):
            figures |= dict(_scalars(f"device_{index}", asdict(conditions)))
    return {name: figure for name, figure in figures.items() if figure is not None}


def tags(result: Result) -> list[str]:
    """Return the tags by which a table's runs are filtered."""
    return [result.framework, result.settings["mode"]["name"], result.status, *_kinds(result)]


def _kinds(result: Result) -> list[str]:
    """Return the kinds of the warnings, each once, in the result's order."""
    return list(dict.fromkeys(warning.kind for warning in result.warnings))


def _scalars(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves under a name, by their paths; a sequence is how many there are."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _scalars(f"{name}_{str(key).replace(' ', '_')}", inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield name, len(value)
    else:
        yield name, value
