"""`python -m mfubench.flops [group=option] [key=value]`: the FLOPs of one optimizer step on one device, without running it.

Takes the command line of a run and flags of its own; prints a table or JSON: the counts, where the FLOPs are spent, and
the same step under published formulas. Needs neither weights nor a GPU.
Exit status: 0 counted; 2 the command line is wrong or asks for what can't be counted; 1 an operator has no formula, so
that a run would be inconsistent, or the two counts disagree, which is a bug in mfubench.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import compose_one
from mfubench.files.terminal import begin_command
from mfubench.flops.analytic import COUNTS_TOLERANCE, relative_difference
from mfubench.flops.breakdown import by_module, by_operator, by_phase, hardware_flops
from mfubench.flops.conventions import figures
from mfubench.flops.flop_table import TOTALS, CountedStep, flops_share, show_step
from mfubench.flops.step import profile_of, second_count, step_flops
from mfubench.hardware.machine import Unavailable, planned, resolve_precision
from mfubench.hardware.peaks import peak as find_peak
from mfubench.hardware.peaks import peak_dtype
from mfubench.workload.config_json import text_part_note, with_architecture

FLOPS_COMMAND = "python -m mfubench.flops"
IMPLAUSIBLY_LOW = 1e-4  # of the peak


def count_step(
    experiment: Experiment, *, documents: tuple[int, ...] | None = None, trained_tokens: int | None = None
) -> CountedStep:
    """Count the step of `experiment`. Raises ValueError if it can't be counted."""
    shape = (experiment.batch_size, experiment.sequence_length)
    micro_batches = experiment.gradient_accumulation_steps
    step = step_flops(experiment, documents=documents, trained_tokens=trained_tokens)
    profile = profile_of(experiment)
    places = hardware_flops(profile, *shape, documents=documents, trained_tokens=trained_tokens)
    tokens = experiment.batch_size * experiment.sequence_length * micro_batches
    adapted = experiment.mode.has_adapters
    return CountedStep(
        experiment=experiment,
        documents=documents,
        trained_tokens=trained_tokens,
        step=step,
        second=second_count(experiment, documents=documents, trained_tokens=trained_tokens),
        places={place: flops * micro_batches for place, flops in places.items()},
        conventions=figures(profile, step, tokens=tokens, sequence_length=experiment.sequence_length, lora=adapted),
        tokens=tokens,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Count the step that the command line describes and print it. Returns the exit status."""
    begin_command()
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = _flops_parser().parse_intermixed_args(arguments)
    try:
        experiment = with_architecture(compose_one(given.overrides))
        peak = _peak(experiment, given)
        counted = count_step(experiment, documents=given.documents, trained_tokens=given.trained_tokens)
    except ConfigError as error:
        print(error.screen(arguments, FLOPS_COMMAND), file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"mfubench.flops: {error}", file=sys.stderr)
        return 2
    rate = None if peak is None else given.step_time_s * peak
    doubt = None if rate is None else doubt_about(max(counted.step.flops.values()) / rate)
    for line in filter(None, (text_part_note(experiment.model), doubt)):
        print(line, file=sys.stderr)
    if given.json:
        print(json.dumps(step_as_json(counted, rate), indent=1))
    else:
        show_step(counted, rate, Console(), conventions=given.conventions)
    return _exit_status(counted)


def _peak(experiment: Experiment, given: argparse.Namespace) -> float | None:
    """Return the peak in FLOP/s that a given step time is set against, None without one. Raises ValueError if it isn't known."""
    if given.step_time_s is None:
        if given.peak_tflops is not None:
            raise ValueError("--peak-tflops makes an MFU together with --step-time-s; give both or neither")
        return None
    if given.peak_tflops is not None:
        return float(given.peak_tflops * 1e12)
    option = experiment.hardware
    if option.device_name is None:
        raise ValueError("--step-time-s needs a peak: hardware=NAME, such as hardware=h100-sxm, or --peak-tflops 989.4")
    machine = planned(option, experiment.parallelism.num_devices)
    try:
        dtype = peak_dtype(resolve_precision(experiment.precision, machine), machine)
    except Unavailable as error:
        raise ValueError(str(error)) from error
    return find_peak(option, machine, dtype, 1, 1, _nothing_is_measured).flops_per_second


def doubt_about(utilisation: float) -> str | None:
    """The line for an MFU or HFU that can't be right, and its likely causes; None for one that can."""
    units = "--step-time-s is in seconds of an optimizer step, --peak-tflops in TFLOP/s of one device (312, not 312e12)"
    if utilisation > 1:
        return f"{utilisation:.1%} of the peak is more than a device can do: {units}"
    return f"{utilisation:.2g} of the peak is no training run's: {units}" if utilisation < IMPLAUSIBLY_LOW else None


def _nothing_is_measured(*_: Any) -> list[str]:
    raise AssertionError("the peak of a named GPU is a data sheet's")


def step_as_json(counted: CountedStep, possible_flops: float | None) -> dict[str, Any]:
    """Everything about a step, in FLOP per optimizer step and device; `possible_flops` as in `show_step`."""
    step, experiment, second = counted.step, counted.experiment, counted.second
    return {
        "workload": {
            "model": experiment.model.name,
            "mode": experiment.mode.name,
            "gradient_checkpointing": experiment.gradient_checkpointing.name,
            "attention": experiment.attention,
            "batch_size": experiment.batch_size,
            "sequence_length": experiment.sequence_length,
            "documents": counted.documents,
            "trained_tokens": counted.trained_tokens,
            "gradient_accumulation_steps": experiment.gradient_accumulation_steps,
        },
        **step.flops,
        "closed_form": None if second is None else {name: getattr(second, name) for name in TOTALS},
        "closed_form_apart": None if second is None else relative_difference(step, second),
        "parameters": step.parameters,
        "trainable_parameters": step.trainable_parameters,
        "tokens": counted.tokens,
        "flops_per_token": step.flops["model_flops"] / counted.tokens,
        "by_phase": by_phase(counted.places),
        "by_operator": by_operator(counted.places),
        "by_module": by_module(counted.places),
        "uncounted": dict(step.uncounted),
        "conventions": [
            {
                "name": figure.convention.name,
                "flops": figure.flops,
                "mfu": flops_share(figure.flops, possible_flops),
                "formula": figure.expression,
                "words": figure.convention.words,
                "source": figure.convention.source,
            }
            for figure in counted.conventions
        ],
    }


def _exit_status(counted: CountedStep) -> int:
    """Exit status; also prints an error if the totals can't be trusted: operators lack a formula, or the two counts disagree."""
    if counted.step.uncounted:
        listed = ", ".join(f"{operator} ({calls} calls)" for operator, calls in counted.step.uncounted.items())
        message = f"mfubench.flops: no formula counts {listed}; the totals lack it, and a run would be inconsistent"
        print(message, file=sys.stderr)
        return 1
    if counted.second is None or relative_difference(counted.step, counted.second) <= COUNTS_TOLERANCE:
        return 0
    totals = [
        f"{name} {getattr(counted.step, name):,} traced, {getattr(counted.second, name):,} by formulas"
        for name in TOTALS
    ]
    message = f"mfubench.flops: the two counts disagree, by more than {COUNTS_TOLERANCE:.1%}; believe neither, and report this"
    print("\n  ".join([message, *totals]), file=sys.stderr)
    return 1


def _flops_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=FLOPS_COMMAND,
        description="Count the FLOPs of one optimizer step on one device, without running it.",
        epilog=f"{FLOPS_COMMAND} model=llama-3.1-8b mode=lora batch_size=2 sequence_length=2048 --conventions "
        "--step-time-s 1.15 --peak-tflops 312",
        allow_abbrev=False,
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="group=option and key=value, as for a run")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--conventions", action="store_true", help="the same step under every published formula")
    parser.add_argument(
        "--step-time-s", type=_positive, metavar="S", help="a measured step time in seconds: prints its MFU"
    )
    parser.add_argument(
        "--peak-tflops", type=_positive, metavar="P", help="the peak in TFLOP/s; default: that of hardware=NAME"
    )
    parser.add_argument(
        "--documents", type=_lengths, metavar="L,L,...", help="pack every sequence with documents of these lengths"
    )
    parser.add_argument(
        "--trained-tokens", type=int, metavar="N", help="pass only N tokens of a micro-batch through lm_head"
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


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(length) for length in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be whole numbers separated by commas, such as 512,1536"
        ) from None


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it as it ends other commands
    sys.exit(main())
