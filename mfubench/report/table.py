"""Results → what people read in a terminal: one row per run, what all share folded into a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfubench.report.result import Result

# Figure → its heading over a column, in two lines.
HEADINGS = {
    "step time": "step\ntime",
    "tokens/s/device": "tokens/s\nper device",
    "TFLOP/s": "model\nTFLOP/s",
    "MFU": "\nMFU",
    "MFU causal": "MFU\ncausal",
    "HFU": "\nHFU",
    "HFU causal": "HFU\ncausal",
    "memory": "peak\nmemory",
    "padding": "\npadding",  # a column only where something was padded
}
LEGEND = (
    "MFU: the FLOPs that training needs (no recomputation, attention over the full square) / (step time × peak). "
    "HFU: those that are executed, recomputation included. Causal: without attention's masked half. "
    "±: 95 % interval of the mean."
)
DETAILS = ("framework.native", "mode", "model", "model.architecture", "measurement")
ALREADY_NAMED = ("name", "rank", "architecture")
UNBOUNDED = 1000  # columns
LEFT_OPEN = ("checkpointing", "attention", "liger", "compile", "optimizer")  # by comparison=defaults


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table of the results: what they share above it, reasons, warnings and the legend below."""
    details = _details(results)
    settings = [
        in_words(result.settings, result.framework, (result.hardware or {}).get("precision")) | own
        for result, own in zip(results, details, strict=True)
    ]
    varying = [key for key in settings[0] if len({own[key] for own in settings}) > 1]
    console.print(" · ".join(f"{k} {v}" for k, v in settings[0].items() if v and k not in varying), highlight=False)
    for line in _devices(results):
        console.print(line, highlight=False)
    console.print()
    table = _one(results[0]) if len(results) == 1 else _many(results, settings, varying)
    width = console.width
    console.width = max(width, console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum)
    console.print(table)  # folded or cut rows are harder to read than long ones
    console.width = width
    console.print()
    names = [
        ", ".join(f"{key} {own[key]}" for key in varying if own[key]) or result.name
        for result, own in zip(results, settings, strict=True)
    ]
    reasons = [[f"{result.status}: {result.reason}"] if result.reason else [] for result in results]
    _remarks(names, reasons, "red", console)
    _remarks(names, [result.warnings for result in results], "yellow", console)
    if any(result.measurement for result in results):
        console.print(LEGEND, style="dim", highlight=False)


def _remarks(names: Sequence[str], remarks: Sequence[Sequence[str]], style: str, console: Console) -> None:
    """What is said of each of the named runs, every remark once, behind the names of all runs that it is about."""
    for remark in dict.fromkeys(remark for of_one in remarks for remark in of_one):
        about = [name for name, of_one in zip(names, remarks, strict=True) if remark in of_one]
        console.print(f"{'; '.join(dict.fromkeys(about))}: {remark}", style=style, markup=False, highlight=False)


def _many(results: Sequence[Result], settings: Sequence[Mapping[str, str]], varying: Sequence[str]) -> Table:
    """A row per run: the settings that differ, the status, the figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in [*varying, "status"]:
        table.add_column(f"\n{key}", no_wrap=True)
    figures = [_figures(result) for result in results]
    shown = [name for name in HEADINGS if name != "padding" or any("padding" in own for own in figures)]
    for name in shown:
        table.add_column(HEADINGS[name], justify="right", no_wrap=True)
    for result, own, of_run in zip(results, settings, figures, strict=True):
        cells = [of_run.get(name, "–") for name in shown]
        table.add_row(*(Text(own[key]) for key in varying), _status(result), *map(Text, cells))
    return table


def _one(result: Result) -> Table:
    """A row per figure."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("status", _status(result))
    for name, cell in {**_figures(result), **_in_situ(result)}.items():
        table.add_row(name, Text(cell))
    return table


def _in_situ(result: Result) -> dict[str, str]:
    """What was counted in the framework's own process, in words; empty where nothing was."""
    counted = (result.flops or {}).get("in_situ")
    if result.measurement is None or counted is None or counted["flops"] is None:
        return {}
    seen, expected = counted["flops"] / 1e12, counted["expected_flops"] / 1e12
    return {"in situ": f"{seen:.4g} TFLOP in a step, {counted['apart']:+.1%} from {expected:.4g}"}


def _status(result: Result) -> Text:
    return Text(result.status, style="green" if result.status == "ok" else "red")


def in_words(asked: Mapping[str, Any], framework: str, precision: str | None) -> dict[str, str]:
    """The settings of a run by the names under which they are set; `framework` with its engine, the resolved precision."""
    devices = asked["parallelism"]["num_devices"]
    left_open = dict.fromkeys(LEFT_OPEN if asked.get("comparison") == "defaults" else (), "its own")
    return {
        "framework": framework,
        "model": asked["model"]["name"],
        "mode": asked["mode"]["name"],
        "rank": str(asked["mode"]["rank"] or ""),
        "parallelism": asked["parallelism"]["name"] + (f" ×{devices}" if devices > 1 else ""),
        "checkpointing": asked["gradient_checkpointing"]["name"],
        "batch": str(asked["batch_size"]),
        "sequence": str(asked["sequence_length"]),
        "accumulation": str(asked["gradient_accumulation_steps"]),
        "precision": precision or asked["precision"],
        "attention": asked["attention"],
        "liger": _liger(asked),
        "data": asked["data"]["name"],
        "padding": asked["data"]["padding"] if asked["data"]["name"] != "synthetic" else "",
        "compile": _on_off(asked["torch_compile"]),
        "optimizer": asked["optimizer"],
        "seed": str(asked["seed"]),
    } | left_open


def _details(results: Sequence[Result]) -> list[dict[str, str]]:
    """By run, what has no name among the settings above: the user's native keys, which win over those names; and what
    differs between runs of the same mode, model or measurement."""
    found: list[dict[str, str]] = [{} for _ in results]
    for path in DETAILS:
        group, _, inner = path.partition(".")
        trees = [result.settings[group][inner] if inner else result.settings[group] for result in results]
        for key in dict.fromkeys(key for tree in trees for key in tree if key not in ALREADY_NAMED):
            cells = [str(tree[key]) if tree.get(key) is not None else "" for tree in trees]
            options = {(result.settings[group]["name"], cell) for result, cell in zip(results, cells, strict=True)}
            if inner == "native" or len(options) > len({option for option, _ in options}):
                for own, cell in zip(found, cells, strict=True):
                    own[f"{inner or group}.{key}"] = cell
    return found


def _liger(asked: Mapping[str, Any]) -> str:
    """off, or the kernels that were asked for."""
    chosen = [switch for switch, on in asked["liger"].items() if on] if asked["liger_kernel"] else []
    return ", ".join(chosen) or "off"


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _figures(result: Result) -> dict[str, str]:
    """The run's figures in words; empty for a run that is not ok."""
    m = result.measurement
    if m is None:
        return {}
    low, high = m["ci95"]["step_time_s"]
    memory = m["peak_memory_bytes"]
    cells = {
        "step time": f"{_seconds(m['step_time_s'])} ±{(high - low) / 2 / m['step_time_s']:.1%}",
        "tokens/s/device": f"{m['tokens_per_second_per_device']:,.0f}",
        "TFLOP/s": f"{m['model_tflops_per_second_per_device']:.3g}",
    }
    cells |= {name: f"{m[name.lower().replace(' ', '_')]:.1%}" for name in ("MFU", "MFU causal", "HFU", "HFU causal")}
    cells["memory"] = f"{memory / 2**30:.2f} GiB" if memory else "–"
    if m["padding_fraction"]:
        cells["padding"] = f"{m['padding_fraction']:.1%}"
    return cells


def _seconds(value: float) -> str:
    return f"{value:.4g} s" if value >= 1 else f"{value * 1e3:.4g} ms"


def _devices(results: Sequence[Result]) -> list[str]:
    """The devices, and the peaks that the results are relative to."""
    peaks: dict[tuple[str, ...], list[float]] = {}
    for h in (result.hardware for result in results):
        if h and h["peak_flops_per_second"]:
            source = "measured before each run" if h["peak_measured"] else h["peak_source"]
            peaks.setdefault((h["device_name"], h["peak_dtype"], source), []).append(h["peak_flops_per_second"] / 1e12)
    return [
        f"{name}: peak {_range(values)} TFLOP/s in {dtype}, {source}" for (name, dtype, source), values in peaks.items()
    ]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low}–{high}"
