"""Check the traced FLOP count of a step against the analytic one, which shares no code with it."""

from __future__ import annotations

from dataclasses import asdict

from mfubench.config import Experiment
from mfubench.flops.analytic import COUNTS_TOLERANCE, relative_difference
from mfubench.flops.analytic_model import not_written_down
from mfubench.flops.counts import FlopCount, SecondCount
from mfubench.flops.step import second_count
from mfubench.records.expected import Difference


def compare_counts(experiment: Experiment, traced: FlopCount) -> SecondCount | None:
    """Count the `traced` step analytically and compare; None if `not_written_down` says why that can't be done."""
    closed = second_count(experiment)
    return None if closed is None else SecondCount(closed, relative_difference(traced, closed))


def second_count_in_words(experiment: Experiment, second: SecondCount | None) -> str:
    """The difference of the two counts as a phrase, or the reason why there is only one."""
    if second is None:
        return f"none: {not_written_down(experiment.model.architecture, experiment.mode)}"
    return f"{second.apart:.2%} apart, by a closed form that shares no code with the first"


def contradictions(traced: FlopCount, second: SecondCount | None) -> tuple[Difference, ...]:
    """The figures of the expected step in which the two counts differ by more than the tolerance."""
    pairs = {} if second is None else {n: (figure, getattr(traced, n)) for n, figure in asdict(second.figures).items()}
    return tuple(
        Difference(f"{name} of a step (one of two counts is wrong)", f"{one:,} by closed form", f"{other:,} traced")
        for name, (one, other) in pairs.items()
        if abs(other - one) > COUNTS_TOLERANCE * one
    )
