"""Print what would be run: the command, its files, the FLOPs of a step, the memory it is expected to need."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from mfubench.flops.counts import FlopCount
from mfubench.flops.crosscheck import second_count_in_words
from mfubench.flops.memory import fits
from mfubench.hardware.peaks import Peak
from mfubench.plan.memory_hint import memory_of_a_rank
from mfubench.plan.plan import write_files
from mfubench.plan.prepare import Prepared, Target, expected_memory, largest_batch
from mfubench.workload.config_json import text_part_note

EXAMPLE_MFU = 0.4


def preview(prepared: Prepared, settings: Mapping[str, str], peak: Peak | None) -> None:
    """Write the plan's files and print it. `settings`: in words; `peak`: None if it would be measured before the run."""
    plan, console = prepared.plan, Console()
    write_files(plan)
    console.print(" · ".join(f"{key} {value}" for key, value in settings.items() if value), highlight=False)
    if (note := text_part_note(prepared.target.experiment.model)) is not None:
        console.print(note, highlight=False, markup=False)
    _heading("command", console)
    console.print(shlex.join((*plan.per_node, *plan.command)), soft_wrap=True, highlight=False, markup=False)
    _heading("environment, laid over yours", console)
    for key, value in plan.environment.items():
        console.print(f"{key}={shlex.quote(value)}", soft_wrap=True, highlight=False, markup=False)
    for name, text in {plan.config_path.name: plan.config_text, **plan.other_files}.items():
        _heading(name, console)
        console.print(text.rstrip(), soft_wrap=True, highlight=False, markup=False)
    at_most = ", at most: all samples at full length" if settings.get("padding") == "longest" else ""
    _heading(f"FLOPs of an optimizer step on one device{at_most}", console)
    second_count = second_count_in_words(prepared.target.experiment, prepared.second_count)
    console.print(_flops_table(prepared.flops, second_count, peak))
    _heading("expected memory of one device (an estimate)", console)
    try:
        console.print(_memory_table(prepared.target))
    except ValueError as error:  # a framework's YAML may name an optimizer that no formula knows
        console.print(str(error))
    if prepared.target.machine.device == "cpu":
        console.print("\nFor a GPU that isn't here: hardware=h100-sxm, or another of conf/hardware", highlight=False)
    console.print(
        f"\nNothing was started. These files, and plan.json, are in {plan.folder}", highlight=False, soft_wrap=True
    )


def _heading(text: str, console: Console) -> None:
    console.print(f"\n[bold]{text}[/bold]", highlight=False)


def _flops_table(flops: FlopCount, second_count: str, peak: Peak | None) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, amount, meaning in (
        ("model", "model_flops", "MFU's numerator"),
        ("model, causal", "model_flops_causal", "without attention's masked half"),
        ("hardware", "hardware_flops", "HFU's numerator: recomputation included"),
        ("hardware, causal", "hardware_flops_causal", "without attention's masked half"),
    ):
        table.add_row(name, f"{flops.flops[amount] / 1e12:,.4g} TFLOP", meaning)
    table.add_row("second count", "", second_count)
    if peak is None:
        table.add_row("peak", "", "measured before the run")
    else:
        table.add_row("peak", f"{peak.flops_per_second / 1e12:,.4g} TFLOP/s", f"{peak.dtype}, {peak.source}")
        step_s = flops.flops["model_flops"] / (EXAMPLE_MFU * peak.flops_per_second)
        table.add_row("a step", f"{step_s:.3g} s", f"at an MFU of {EXAMPLE_MFU:.0%}")
        table.add_row("your step time", "", "python -m mfubench.flops, the same settings, and --step-time-s SECONDS")
    return table


def _memory_table(target: Target) -> Table:
    memory = expected_memory(target)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, amount in asdict(memory).items():
        if amount:
            note = "at the peak, when some gradients aren't there yet" if name == "activations" else ""
            table.add_row(name, _size(amount), note)
    share = memory_of_a_rank(target)
    if share is None:
        table.add_row("together", _size(memory.total))
        return table
    verdict = "[green]fits[/green]" if fits(memory, share) else "[red]does not fit[/red]"
    table.add_row("together", _size(memory.total), f"of {_size(share)}: {verdict}")
    largest = largest_batch(target, share)
    sequences = f"{largest} × {target.experiment.sequence_length}" if largest else "none"
    table.add_row("largest batch", sequences, "per device, by this estimate")
    return table


def _size(amount: float) -> str:
    return f"{amount / 2**30:,.2f} GiB" if amount >= 2**29 else f"{amount / 2**20:,.0f} MiB"
