"""Put the results of a sweep together, and pool the repeats of each setting: the rows of a report.

Runs of one sweep whose settings, versions and machine are the same in words are repeats of one setting; single runs are if
they were asked for as repeats. Fresh processes differ by more than the steps within one do, so that the run is the unit: a
figure is the mean of the runs' figures, and its interval is Student's t over runs.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfubench.config.errors import key_of
from mfubench.measure.intervals import student
from mfubench.measure.metric_table import BY_NAME
from mfubench.report.settings import describe, one_line
from mfubench.result.result_file import Result


@dataclass(frozen=True)
class Figure:
    """A figure of a setting, in the unit that its name in the measurement says."""

    mean: float  # of the runs; of a metric whose largest stands for all, that
    low: float | None  # of the 95 % interval of the mean; None: this figure has no interval
    high: float | None  # None, with a low end: the interval has no upper one
    runs: int  # 1: the interval is over the steps within the run, and says nothing of how runs differ

    @property
    def half_width(self) -> float | None:
        """Half of the interval; None if an end is missing."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Pooled:
    """The runs of one setting, in the order in which they started."""

    settings: Mapping[str, str]  # in words
    results: tuple[Result, ...]

    @property
    def ok(self) -> tuple[Result, ...]:
        """Those with figures."""
        return tuple(result for result in self.results if result.measurement is not None)

    @property
    def status(self) -> str:
        """The status of the runs if they agree, else how many are ok, as in: 2 of 3 ok."""
        statuses = {result.status for result in self.results}
        return statuses.pop() if len(statuses) == 1 else f"{len(self.ok)} of {len(self.results)} ok"

    def figure(self, name: str) -> Figure | None:
        """Pool a number of the measurement over the ok runs; None if none of them has it."""
        measurements = [result.measurement for result in self.ok if result.measurement]
        known = [measured for measured in measurements if getattr(measured, name) is not None]
        values = [float(getattr(measured, name)) for measured in known]
        if not values:
            return None
        if len(values) == 1:
            low, high = known[0].ci95.get(name, (None, None))
            return Figure(values[0], low, high, 1)
        if BY_NAME[name].largest:
            return Figure(max(values), None, None, len(values))
        mean = statistics.fmean(values)
        half = student(len(values)) * statistics.stdev(values) / len(values) ** 0.5
        return Figure(mean, mean - half, mean + half, len(values))


def by_sweep(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Return the results of each sweep, and of each day's single runs, under a title with the study; the newest first."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group or result.started_at[:10], []).append(result)
    newest_first = sorted(groups.items(), key=lambda group: max(run.started_at for run in group[1]), reverse=True)
    found = []
    for name, runs in newest_first:
        study = [each for each in runs[0].provenance.overrides or () if key_of(each) == "experiment"]
        title = " · ".join([f"Sweep {name}", *study]) if runs[0].group else f"Single runs of {name}"
        found.append((one_line(title), runs))
    return found


def pool(results: Sequence[Result], words: Sequence[Mapping[str, str]] | None = None) -> list[Pooled]:
    """Group results by setting and sweep, in the order in which they first come; of single runs, each `repeat` once.

    `words`: the settings of each result in words; by default those of `describe`.
    """
    alike: dict[tuple[Any, ...], list[Result]] = {}
    before: Counter[tuple[Any, ...]] = Counter()  # single runs of the same settings and the same repeat
    for result, own in zip(results, describe(results) if words is None else words, strict=True):
        setting, repeat = (result.group, *own.items()), result.settings["repeat"] if result.group is None else None
        alike.setdefault((before[setting, repeat], *setting), []).append(result)
        before[setting, repeat] += result.group is None
    runs = (sorted(found, key=lambda run: run.started_at) for found in alike.values())
    return [Pooled(dict(own[2:]), tuple(found)) for own, found in zip(alike, runs, strict=True)]


def pairs(one: Pooled, other: Pooled) -> list[tuple[Result, Result]]:
    """The ok runs of both that stood beside each other: the same repeat of the same sweep, in the order of `one`."""
    partners = {beside: run for beside, run in zip(_beside(other), other.ok, strict=True)}
    found = zip(_beside(one), one.ok, strict=True)
    return [(run, partners[beside]) for beside, run in found if beside in partners]


def _beside(pooled: Pooled) -> list[tuple[str, int, int]]:
    """By ok run: its sweep, its repeat, and which of several with both the same it is; runs of no sweep stand alone."""
    seen: Counter[tuple[str, int]] = Counter()
    found = []
    for run in pooled.ok:
        place = (run.group or f"no sweep: {id(run)}", int(run.settings["repeat"]))
        found.append((*place, seen[place]))
        seen[place] += 1
    return found
