"""Settings compared: ratios of step times with intervals, what else differs between the two, which is fastest. Pure.

What is compared are rows of one task: the same model, data and amount of work asked per step, on as many of the same
devices, with the same `measurement`. Of repeats in one sweep the same repeat of both is a pair; other runs are compared as
two groups; where a side has a single run, nothing is known of how runs differ, and no difference is ever called resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mfubench.explain.difference import Basis, Difference, difference
from mfubench.measure.ratio import Ratio, paired, single, unpaired
from mfubench.report.pooling import Pooled, pairs
from mfubench.report.work_differences import WorkDifference, work_differences
from mfubench.result.result_file import Result

TASK = ("model", "mode", "batch", "sequence", "accumulation", "data", "padding", "device", "measurement")
TASK_DETAILS = ("model.", "architecture.", "data.")
MOST_ROWS = 8  # of a task: beyond these its ratios would be read by nobody
WIDE = 0.1  # half an interval of a ratio: beyond this its two ends are said, which lie unevenly


@dataclass(frozen=True)
class Comparison:
    """The ratio of the step times other / one, their difference other - one, and those between the work of the two."""

    one: Pooled
    other: Pooled
    ratio: Ratio
    differences: tuple[WorkDifference, ...]
    difference: Difference | None  # None unless a profile explains the time of both

    @property
    def same_work(self) -> bool:
        """True if the two did the same work, in whatever way."""
        return all(difference.same_work for difference in self.differences)


def compare(one: Pooled, other: Pooled, in_pairs: bool = True) -> Comparison:
    """The comparison of two settings with an ok run each."""
    ratio, differences = step_time_ratio(one, other, in_pairs), work_differences(one, other)
    return Comparison(one, other, ratio, differences, step_time_difference(one, other, in_pairs))


def step_time_ratio(one: Pooled, other: Pooled, in_pairs: bool = True) -> Ratio:
    """Return the step time of `other` over that of `one`; by pairs if wanted and if there are at least two.

    If a run has too few steps for an interval, the ratio has none either, whatever the number of runs: nobody knows if the
    run was steady.
    """
    if _too_few_steps(one, other):
        return single((_mean(one)[0], None), (_mean(other)[0], None))
    *sides, basis = _sides(one, other, in_pairs)
    if basis == "single":
        return single(_mean(one), _mean(other))
    return (paired if basis == "pairs" else unpaired)(*(_step_times(side) for side in sides))


def step_time_difference(one: Pooled, other: Pooled, in_pairs: bool = True) -> Difference | None:
    """Return the difference other - one by category of the runs that have an explanation, over pairs or runs as their ratio."""
    one, other = (replace(side, results=tuple(run for run in side.ok if run.explanation)) for side in (one, other))
    if not (one.ok and other.ok):
        return None
    *sides, basis = _sides(one, other, in_pairs)
    before, after = ([run.explanation.time for run in side if run.explanation] for side in sides)
    return difference(after, before, "single" if _too_few_steps(one, other) else basis)


def tasks(rows: Sequence[Pooled]) -> list[list[Pooled]]:
    """The rows that can be compared with each other, those of each task together."""
    alike: dict[tuple[str, ...], list[Pooled]] = {}
    for row in rows:
        details = (f"{key} {cell}" for key, cell in row.settings.items() if key.startswith(TASK_DETAILS))
        devices = str(row.results[0].settings["parallelism"]["num_devices"])
        alike.setdefault((*(row.settings.get(key, "") for key in TASK), devices, *details), []).append(row)
    return list(alike.values())


def comparisons(rows: Sequence[Pooled]) -> list[list[Comparison]]:
    """By task of two to eight rows with figures: each row against the first of them."""
    measured = ([row for row in task if row.ok] for task in tasks(rows))
    return [[compare(task[0], other) for other in task[1:]] for task in measured if 2 <= len(task) <= MOST_ROWS]


def fastest(rows: Sequence[Pooled]) -> list[Pooled]:
    """The rows that take less time per step than every other row that did the same work, each difference resolved."""
    return [row for task in tasks(rows) for row in task if row.ok and _wins(row, (other for other in task if other.ok))]


def _wins(row: Pooled, task: Iterable[Pooled]) -> bool:
    rivals = [
        other
        for other in task
        if other is not row and all(difference.same_work for difference in work_differences(row, other))
    ]
    mine = _mean(row)[0]
    # The cheap question first: a table of forty rows has many pairs.
    if not rivals or any(_mean(other)[0] <= mine for other in rivals):
        return False
    ratios = (step_time_ratio(row, other) for other in rivals)
    return all(ratio.resolved and ratio.ratio > 1 for ratio in ratios)


def sentence(ratio: Ratio, other: str) -> str:
    """A ratio as a sentence about the setting `other`, under the name of the one that it is compared with."""
    if ratio.basis == "single":
        return f"{other}: {amount(ratio)} in these runs"
    over = f"{ratio.pairs} pairs" if ratio.pairs else "repeated runs"
    if ratio.resolved:
        return f"{other}: {amount(ratio)} ({over})"
    more = f"about {ratio.more_repeats} more would" if ratio.more_repeats else "more than anyone would run would"
    return f"{other}: no difference resolved ({amount(ratio)}, {over}; {more})"


def amount(ratio: Ratio) -> str:
    """1.043× ± 0.006, or the ends of a wide interval."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.ratio:.2f}×"
    half = (ratio.high - ratio.low) / 2
    if half > WIDE:
        low = f"{ratio.low:.2f}×" if ratio.low >= 0.01 else "less than 0.01×"
        high = f"{ratio.high:.2f}×" if ratio.high <= 100 else "more than 100×"
        return f"{ratio.ratio:.2f}× ({low} to {high})"
    digits = 3 if half >= 0.0005 else 5
    return f"{ratio.ratio:.{digits}f}× ± {half:.{digits}f}"


def _sides(one: Pooled, other: Pooled, in_pairs: bool) -> tuple[Sequence[Result], Sequence[Result], Basis]:
    """Return the ok runs of both settings to compare, and by what they are."""
    beside = pairs(one, other) if in_pairs else []
    if len(beside) >= 2:
        return [run for run, _ in beside], [run for _, run in beside], "pairs"
    return one.ok, other.ok, "runs" if min(len(one.ok), len(other.ok)) >= 2 else "single"


def _too_few_steps(one: Pooled, other: Pooled) -> bool:
    return any(run.measurement and run.measurement.relative_half_width is None for run in (*one.ok, *other.ok))


def _step_times(runs: Iterable[Result]) -> list[float]:
    return [run.measurement.step_time_s for run in runs if run.measurement]


def _mean(pooled: Pooled) -> tuple[float, float | None]:
    """The mean step time of a setting that is ok, and half the width of its interval; None if it has none."""
    figure = pooled.figure("step_time_s")
    assert figure is not None
    return figure.mean, figure.half_width
