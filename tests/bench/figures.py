"""What the rooms of the bench share: figures beside their goals, comparisons beside what they should find, and commands."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from mfubench.measure.ratio import Ratio


@dataclass(frozen=True)
class Line:
    """A figure measured several times, and the most that it should be; None: it has no goal."""

    what: str
    unit: str
    values: Sequence[float]
    goal: float | None


@dataclass(frozen=True)
class Comparison:
    """A ratio of step times, and what it should be found to be, but for the one time in twenty that is chance."""

    what: str
    ratio: Ratio
    true: tuple[float, float]  # the interval should meet this
    resolved: bool | None  # whether a difference should be; None: nobody knows


def table(lines: Sequence[Line]) -> Table:
    """One row each: the median, the least and the most, the goal, and whether the median meets it."""
    columns = Table("", "median", "least", "most", "goal", "", title="what mfubench itself costs")
    for line in lines:
        middle = median(line.values)
        met = "" if line.goal is None else "[green]met[/]" if middle <= line.goal else "[red]not met[/]"
        figures = [f"{value:.3g} {line.unit}" for value in (middle, min(line.values), max(line.values))]
        columns.add_row(line.what, *figures, "" if line.goal is None else f"≤ {line.goal:g} {line.unit}", met)
    return columns


def comparisons(made: Sequence[Comparison]) -> Table:
    """One row each: the ratio, its 95 % interval, whether that says that there is a difference, and whether it should."""
    rows = Table("", "ratio", "pairs", "true", "", "", title="step times compared")
    for each in made:
        found, (least, most) = each.ratio, each.true
        said = "a difference" if found.resolved else "no difference resolved"
        right = found.low <= most and found.high >= least and each.resolved in (None, found.resolved)
        rows.add_row(
            each.what,
            f"{found.ratio:.4f} ± {(found.high - found.low) / 2:.4f}",
            f"{found.pairs}",
            f"{least:g}" if least == most else f"{least:g} to {most:g}",
            said,
            "[green]right[/]" if right else "[red]wrong[/]",
        )
    return rows


def seconds(command: Sequence[str], folder: Path) -> float:
    """How long the command takes."""
    began = time.perf_counter()
    run(command, folder)
    return time.perf_counter() - began


def cpu_seconds(command: Sequence[str], folder: Path) -> float:
    """How long the command keeps a core busy, which other programs on the machine change less than how long it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished command; CalledProcessError, its output shown, where it can't run. In this environment, or our own."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    done.check_returncode()
    return done
