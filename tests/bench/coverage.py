"""How often the 95 % interval of the mean step time holds the true mean, on simulated series whose truth is known."""

from __future__ import annotations

import random

from rich.table import Table

from mfubench.measure.intervals import MIN_STEPS, summarize

SERIES = 2000
STEPS = (8, 30, 100)
AUTOCORRELATIONS = (0.0, 0.2, 0.35, 0.5)  # of neighbouring steps
SPREAD = 0.05  # of a step, over the mean


def coverage() -> Table:
    """A row for each number of steps; two standard errors of a share are 1 %."""
    shown = Table("steps", *(f"r = {r:g}" for r in AUTOCORRELATIONS), title="95 % intervals that hold the true mean")
    for steps in STEPS:
        if steps < MIN_STEPS:
            shown.add_row(f"{steps}", *["no interval"] * len(AUTOCORRELATIONS))
        else:
            shown.add_row(f"{steps}", *(f"{_covered(steps, r):.1%}" for r in AUTOCORRELATIONS))
    return shown


def _covered(steps: int, autocorrelation: float) -> float:
    source = random.Random(f"{steps} {autocorrelation}")
    found = [summarize(_series(source, steps, autocorrelation)) for _ in range(SERIES)]
    return sum(each.ci95_low <= 1 <= each.ci95_high for each in found) / SERIES


def _series(source: random.Random, steps: int, autocorrelation: float) -> list[float]:
    """An autoregressive process of first order about 1."""
    deviation, fresh = source.gauss(), (1 - autocorrelation**2) ** 0.5
    times = []
    for _ in range(steps):
        times.append(1 + SPREAD * deviation)
        deviation = autocorrelation * deviation + fresh * source.gauss()
    return times
