"""Tables of a counted step, and CountedStep itself, the source of the JSON too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mfubench.config import Experiment
from mfubench.flops.analytic import relative_difference
from mfubench.flops.analytic_model import not_written_down
from mfubench.flops.breakdown import OperatorPlace, by_module, by_operator, by_phase
from mfubench.flops.conventions import ARCHITECTURE_QUANTITIES, STEP_QUANTITIES, ConventionFigure, names_in
from mfubench.flops.counts import AnalyticCount, FlopCount

TOTALS = {
    "model_flops": "MFU's numerator: forward and the least backward, attention over a document's full square",
    "model_flops_causal": "the same with only the pairs that the causal mask lets through",
    "hardware_flops": "HFU's numerator: as PyTorch's counter, recomputation included, full square",
    "hardware_flops_causal": "the same without the pairs that the kernel skips",
}


@dataclass(frozen=True)
class CountedStep:
    """The counts of one optimizer step on one device."""

    experiment: Experiment
    documents: tuple[int, ...] | None  # lengths of the documents in every sequence; None: one document
    trained_tokens: int | None  # positions of a micro-batch that pass lm_head; None: all
    step: FlopCount
    second: AnalyticCount | None  # the same step by formulas
    places: dict[OperatorPlace, int]  # hardware FLOPs by phase, operator and module group
    conventions: list[ConventionFigure]
    tokens: int  # positions computed


def show_step(counted: CountedStep, possible_flops: float | None, console: Console, *, conventions: bool) -> None:
    """Print a step; `possible_flops`: FLOPs at the device's peak in the measured step time, if known."""
    step = counted.step
    console.print(_workload_line(counted), highlight=False, soft_wrap=True)
    totals = _plain_table("", "TFLOP per step", "GFLOP per token", *([] if possible_flops is None else ["MFU, HFU"]))
    for name, flops in step.flops.items():
        totals.add_row(name, _tera(flops), f"{flops / counted.tokens / 1e9:,.3f}", *_percent(flops, possible_flops))
    console.print(totals)
    for name, meaning in TOTALS.items():
        _print_term(console, name, meaning)
    _print_term(console, *_second_count(counted))
    console.print("\n[bold]where hardware_flops are spent[/bold]")
    spent = _plain_table("", "TFLOP per step", "share")
    for of in (by_phase, by_module, by_operator):
        for name, flops in of(counted.places).items():
            spent.add_row(name, _tera(flops), f"{flops / step.flops['hardware_flops']:.2%}")
        spent.add_section()
    console.print(spent)
    if step.uncounted:
        listed = ", ".join(f"{operator} ({calls} calls)" for operator, calls in step.uncounted.items())
        _print_term(console, "not counted, having no formula (shapes of a small micro-batch)", listed)
    if conventions:
        _show_conventions(counted.conventions, possible_flops, console)


def flops_share(flops: int | None, possible_flops: float | None) -> float | None:
    """FLOPs as a fraction of `possible_flops`; None if either isn't known."""
    return None if flops is None or possible_flops is None else flops / possible_flops


def _workload_line(counted: CountedStep) -> str:
    experiment = counted.experiment
    shape = f"{experiment.batch_size} x {experiment.sequence_length}"
    if experiment.gradient_accumulation_steps > 1:
        shape += f" x {experiment.gradient_accumulation_steps}"
    if counted.documents is not None:
        shape += f" (documents of {', '.join(map(str, counted.documents))})"
    trained = "" if counted.trained_tokens is None else f", {counted.trained_tokens} of a micro-batch through lm_head"
    return (
        f"{experiment.model.name}, {experiment.mode.name}, gradient checkpointing {experiment.gradient_checkpointing.name}, "
        f"attention {experiment.attention}: {shape} tokens per optimizer step and device{trained}; "
        f"{counted.step.parameters:,} parameters, {counted.step.trainable_parameters:,} of them trained"
    )


def _second_count(counted: CountedStep) -> tuple[str, str]:
    if counted.second is None:
        reason = not_written_down(counted.experiment.model.architecture, counted.experiment.mode)
        return "no second count", f"the closed form has none of this: {reason}"
    four = ", ".join(_tera(getattr(counted.second, name)) for name in TOTALS)
    return "closed form", f"{four}, {relative_difference(counted.step, counted.second):.2%} apart"


def _show_conventions(figures: Sequence[ConventionFigure], possible_flops: float | None, console: Console) -> None:
    console.print("\n[bold]the same step under published formulas[/bold]")
    table = _plain_table("", "TFLOP per step", *([] if possible_flops is None else ["MFU it makes"]))
    for figure in figures:
        table.add_row(figure.convention.name, _tera(figure.flops), *_percent(figure.flops, possible_flops))
    console.print(table)
    for figure in figures:
        _print_term(console, figure.convention.name, figure.convention.words)
        for detail in (figure.expression, figure.convention.source):
            console.print(f"    {escape(detail)}", style="dim", highlight=False, soft_wrap=True)
    console.print("\n[bold]in these formulas[/bold]")
    for name, meaning in {**ARCHITECTURE_QUANTITIES, **STEP_QUANTITIES}.items():
        if any(name in names_in(figure.expression) for figure in figures):
            _print_term(console, name, meaning)


def _print_term(console: Console, name: str, meaning: str) -> None:
    console.print(f"[bold]{name}[/bold]: {escape(meaning)}", highlight=False, soft_wrap=True)


def _plain_table(*columns: str) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _tera(flops: int | None) -> str:
    if flops is None:
        return "-"
    return f"{flops / 1e12:,.4g}" if 0 < flops < 1e12 else f"{flops / 1e12:,.3f}"


def _percent(flops: int | None, possible_flops: float | None) -> list[str]:
    """The cell of the MFU column, which exists only if a step time was given."""
    fraction = flops_share(flops, possible_flops)
    return [] if possible_flops is None else ["-" if fraction is None else f"{fraction:.1%}"]
