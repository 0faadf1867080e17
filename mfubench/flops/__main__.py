"""`python -m mfubench.flops [group=option] [key=value]`: the FLOPs of one optimizer step on one device, nothing run.

In: the command line of a run, and flags of its own. Out: a table, or JSON, with what is counted, where it is spent, and
what it is called elsewhere. No weights and no GPU are needed.
Exit status: 0 counted; 2 the command line is wrong, or asks for what can't be counted; 1 the count can't be kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import compose_one
from mfubench.flops.breakdown import Place, by_module, by_operator, by_phase, hardware_flops
from mfubench.flops.cache import cached_profile
from mfubench.flops.conventions import OF_A_STEP, SIZES, Figure, figures, names_in
from mfubench.flops.shapes import FlopCount
from mfubench.paths import cache_folder

COMMAND = "python -m mfubench.flops"
TOTALS = {
    "model_flops": "MFU's numerator: forward and the least backward, attention over the full square",
    "model_flops_causal": "the same with only the pairs that the causal mask lets through",
    "hardware_flops": "HFU's numerator: as PyTorch's counter, recomputation included, full square",
    "hardware_flops_causal": "the same without the pairs that the kernel skips",
}


@dataclass(frozen=True)
class Counted:
    """All that is known of one optimizer step on one device."""

    experiment: Experiment
    step: FlopCount
    places: dict[Place, int]  # hardware FLOPs by phase, operator and module group
    conventions: list[Figure]
    tokens: int  # positions computed


def counted(experiment: Experiment) -> Counted:
    """Count the step that `experiment` asks for; ValueError for what can't be counted."""
    batch_size, sequence_length = experiment.batch_size, experiment.sequence_length
    micro_batches = experiment.gradient_accumulation_steps
    profile = cached_profile(
        experiment.model.architecture,
        experiment.mode,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        folder=cache_folder() / "flops",
    )
    profile.check(batch_size, sequence_length)
    step = profile.of(batch_size, sequence_length).scaled(micro_batches)
    tokens = batch_size * sequence_length * micro_batches
    lora = experiment.mode.name != "full"
    return Counted(
        experiment=experiment,
        step=step,
        places={place: n * micro_batches for place, n in hardware_flops(profile, batch_size, sequence_length).items()},
        conventions=figures(profile, step, tokens=tokens, sequence_length=sequence_length, lora=lora),
        tokens=tokens,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Count what the command line asks for and print it; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = _parser().parse_intermixed_args(arguments)
    try:
        if (given.step_time_s is None) != (given.peak_tflops is None):
            raise ValueError("--step-time-s and --peak-tflops make an MFU together; give both or neither")
        found = counted(compose_one(given.overrides))
    except ConfigError as error:
        print(error.screen(arguments, COMMAND), file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"mfubench.flops: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mfubench.flops: {error}\n  counts are kept below $MFUBENCH_CACHE", file=sys.stderr)
        return 1
    rate = None if given.step_time_s is None else given.step_time_s * given.peak_tflops * 1e12
    if given.json:
        print(json.dumps(as_json(found, rate), indent=1))
    else:
        show(found, rate, Console(), conventions=given.conventions)
    return 0


def as_json(found: Counted, possible_flops: float | None) -> dict[str, Any]:
    """Everything about a step, in FLOP per optimizer step and device.

    `possible_flops`: what the device could do in the step's time, of which the MFU of every convention is a fraction.
    """
    step, asked = found.step, found.experiment
    return {
        "workload": {
            "model": asked.model.name,
            "mode": asked.mode.name,
            "gradient_checkpointing": asked.gradient_checkpointing.name,
            "attention": asked.attention,
            "batch_size": asked.batch_size,
            "sequence_length": asked.sequence_length,
            "gradient_accumulation_steps": asked.gradient_accumulation_steps,
        },
        **{name: getattr(step, name) for name in TOTALS},
        "parameters": step.parameters,
        "trainable_parameters": step.trainable_parameters,
        "tokens": found.tokens,
        "flops_per_token": step.model_flops / found.tokens,
        "by_phase": by_phase(found.places),
        "by_operator": by_operator(found.places),
        "by_module": by_module(found.places),
        "uncounted": dict(step.uncounted),
        "conventions": [
            {
                "name": figure.convention.name,
                "flops": figure.flops,
                "mfu": _share(figure.flops, possible_flops),
                "formula": figure.expression,
                "words": figure.convention.words,
                "source": figure.convention.source,
            }
            for figure in found.conventions
        ],
    }


def show(found: Counted, possible_flops: float | None, console: Console, *, conventions: bool) -> None:
    """Print a step for people; `possible_flops` as in `as_json`."""
    step, asked = found.step, found.experiment
    accumulated = f" x {asked.gradient_accumulation_steps}" if asked.gradient_accumulation_steps > 1 else ""
    console.print(
        f"{asked.model.name}, {asked.mode.name}, gradient checkpointing {asked.gradient_checkpointing.name}, "
        f"attention {asked.attention}: {asked.batch_size} x {asked.sequence_length}{accumulated} tokens per optimizer step "
        f"and device; {step.parameters:,} parameters, {step.trainable_parameters:,} of them trained",
        highlight=False,
        soft_wrap=True,
    )
    totals = _table("", "TFLOP per step", "GFLOP per token", *([] if possible_flops is None else ["MFU, HFU"]))
    for name in TOTALS:
        flops = getattr(step, name)
        totals.add_row(name, _tera(flops), f"{flops / found.tokens / 1e9:,.3f}", *_percent(flops, possible_flops))
    console.print(totals)
    for name, meaning in TOTALS.items():
        _line(console, name, meaning)
    console.print("\n[bold]where hardware_flops are spent[/bold]")
    spent = _table("", "TFLOP per step", "share")
    for of in (by_phase, by_module, by_operator):
        for name, flops in of(found.places).items():
            spent.add_row(name, _tera(flops), f"{flops / step.hardware_flops:.2%}")
        spent.add_section()
    console.print(spent)
    if step.uncounted:
        listed = ", ".join(f"{operator} ({calls} calls)" for operator, calls in step.uncounted.items())
        _line(console, "not counted, having no formula", listed)
    if conventions:
        _show_conventions(found.conventions, possible_flops, console)


def _show_conventions(found: Sequence[Figure], possible_flops: float | None, console: Console) -> None:
    console.print("\n[bold]the same step under published formulas[/bold]")
    table = _table("", "TFLOP per step", *([] if possible_flops is None else ["MFU it makes"]))
    for figure in found:
        table.add_row(figure.convention.name, _tera(figure.flops), *_percent(figure.flops, possible_flops))
    console.print(table)
    for figure in found:
        _line(console, figure.convention.name, figure.convention.words)
        for detail in (figure.expression, figure.convention.source):
            console.print(f"    {escape(detail)}", style="dim", highlight=False, soft_wrap=True)
    console.print("\n[bold]in these formulas[/bold]")
    for name, meaning in {**SIZES, **OF_A_STEP}.items():
        if any(name in names_in(figure.expression) for figure in found):
            _line(console, name, meaning)


def _line(console: Console, name: str, meaning: str) -> None:
    console.print(f"[bold]{name}[/bold]: {escape(meaning)}", highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _tera(flops: int | None) -> str:
    if flops is None:
        return "-"
    return f"{flops / 1e12:,.4g}" if 0 < flops < 1e12 else f"{flops / 1e12:,.3f}"


def _share(flops: int | None, possible_flops: float | None) -> float | None:
    return None if flops is None or possible_flops is None else flops / possible_flops


def _percent(flops: int | None, possible_flops: float | None) -> list[str]:
    """The cell of a column that is there only when a step's time was given."""
    share = _share(flops, possible_flops)
    return [] if possible_flops is None else ["-" if share is None else f"{share:.1%}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Count the FLOPs of one optimizer step on one device, without running it.",
        epilog=f"{COMMAND} model=llama-3.1-8b mode=lora batch_size=2 sequence_length=2048 --conventions "
        "--step-time-s 1.15 --peak-tflops 312",
        allow_abbrev=False,
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="as of a run: group=option and key=value")
    parser.add_argument("--json", action="store_true", help="everything, for machines")
    parser.add_argument("--conventions", action="store_true", help="the same step under every published formula")
    parser.add_argument("--step-time-s", type=_positive, metavar="S", help="a measured step: prints the MFU it makes")
    parser.add_argument(
        "--peak-tflops", type=_positive, metavar="P", help="the device's peak in TFLOP/s, with the above"
    )
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
