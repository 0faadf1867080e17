"""Old and new results → what became of each setting: slower, no longer ok, missing, new, or nothing of these. A gate for CI.

Settings match by what was asked. What need not be the same on both sides, and is said where it isn't: the device and its
peak, versions of packages, details of how long was measured, mfubench's own way of running the framework. Of several sweeps
of a setting on one side, the newest counts. Runs of two sweeps did not stand beside each other in time, so that they are
compared as two groups, not in pairs. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mfubench.measure.metric_table import seconds
from mfubench.report.labels import labels
from mfubench.report.overview import SINGLE
from mfubench.report.pooling import Pooled, pool
from mfubench.report.ratios import Comparison, amount, compare
from mfubench.report.section import Section
from mfubench.report.settings import describe
from mfubench.result.flat import Scalar
from mfubench.result.result_file import Result

MAY_DIFFER = ("device", "peak", "random_weights", "recipe", "versions", "mfubench", "measurement.")  # the keys begin so

Words = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Change:
    """A setting, then and now."""

    name: str
    old: Pooled | None  # None: not measured then
    new: Pooled | None
    comparison: Comparison | None  # step time now / then; None unless both have figures
    verdict: str
    regression: bool  # slower by more than the tolerance, for sure; or no longer ok
    differences: str  # what else differs between then and now; empty: nothing known


def changes(old: Sequence[Result], new: Sequence[Result], tolerance: float) -> list[Change]:
    """Return the change of every setting of either side, the new side's settings first.

    Slower is a setting if the whole 95 % interval of its ratio of step times lies above 1 + `tolerance`.
    """
    words = describe([*old, *new])
    sides = words[: len(old)], words[len(old) :]
    # With several devices on one side, each is compared with itself.
    several = any(len({own["device"] for own in side if "device" in own}) > 1 for side in sides)
    free = {key for key in words[0] if key.startswith(MAY_DIFFER) and not (several and key == "device")}
    then, now = (_settings_of(runs, side, free) for runs, side in zip((old, new), sides, strict=True))
    of_run = {id(run): own for run, own in zip([*old, *new], words, strict=True)}
    keys = [*now, *(key for key in then if key not in now)]
    names = labels([now.get(key) or then[key] for key in keys])
    found = []
    for key, name in zip(keys, names, strict=True):
        before, after = then.get(key), now.get(key)
        aside = [{one: _values_of(side, one, of_run) for one in sorted(free)} for side in (before, after)]
        told = [f"{one} {a} and {aside[1][one]}" for one, a in aside[0].items() if a and aside[1][one] not in ("", a)]
        found.append(_change(name, before, after, tolerance, told))
    return found


def regressions(found: Sequence[Change], strict: bool = False) -> list[Change]:
    """Return those that a gate is there for; if `strict`, also what was ok and is missing."""
    return [each for each in found if each.regression or (strict and each.old and each.old.ok and not each.new)]


def section(found: Sequence[Change], tolerance: float) -> Section:
    """The changes as a part of a report."""
    kinds = Counter(change.verdict.partition(":")[0] for change in found)
    measured = [change for change in found if change.comparison]
    single = any(change.comparison and change.comparison.ratio.basis == "single" for change in measured)
    paragraphs = [
        f"{len(found)} settings: {kinds['slower']} slower by more than {tolerance:.1%} (the whole 95 % interval), "
        f"{kinds['no longer ok']} no longer ok, {kinds['missing']} missing, {kinds['new']} new.",
        *([SINGLE] if single else []),
        *_asides(found),
    ]
    rows = [
        [
            change.name,
            *(_step_time(side) for side in (change.old, change.new)),
            amount(change.comparison.ratio) if change.comparison else "–",
            change.verdict + (" ✗" if change.regression else ""),
        ]
        for change in found
    ]
    return Section(
        "Against the old results", paragraphs, ("setting", "old", "new", "time per step, new / old", "verdict"), rows
    )


def change_records(found: Sequence[Change]) -> list[dict[str, Scalar]]:
    """One flat record per setting, for a program to read."""
    return [
        {
            "setting": change.name,
            "verdict": change.verdict,
            "regression": change.regression,
            **dict(_side("old", change.old)),
            **dict(_side("new", change.new)),
            "step_time_ratio": change.comparison.ratio.ratio if change.comparison else None,
            "step_time_ratio_ci95_low": change.comparison.ratio.low if change.comparison else None,
            "step_time_ratio_ci95_high": change.comparison.ratio.high if change.comparison else None,
            "resolved": change.comparison.ratio.resolved if change.comparison else None,
            "differences": change.differences or None,
        }
        for change in found
    ]


def _settings_of(runs: Sequence[Result], words: Words, free: set[str]) -> dict[tuple[tuple[str, str], ...], Pooled]:
    """The settings of a side by what they are matched by."""
    matched = [{key: value for key, value in own.items() if key not in free} for own in words]
    oldest_first = sorted(pool(runs, matched), key=lambda each: each.results[-1].started_at)
    return {tuple(each.settings.items()): each for each in oldest_first}


def _values_of(side: Pooled | None, key: str, words: Mapping[int, Mapping[str, str]]) -> str:
    runs = side.results if side else ()
    return " or ".join(sorted({words[id(run)][key] for run in runs} - {""}))


def _change(name: str, old: Pooled | None, new: Pooled | None, tolerance: float, told: Sequence[str]) -> Change:
    if old is None or new is None:
        return Change(name, old, new, None, "new" if old is None else "missing", False, "")
    comparison = compare(old, new, in_pairs=False) if old.ok and new.ok else None
    worse = (old.status == "ok" and new.status != "ok") or (bool(old.ok) and not new.ok)
    beyond = comparison is not None and comparison.ratio.resolved and (comparison.ratio.low or 0.0) > 1 + tolerance
    different = "; ".join([*map(str, comparison.differences if comparison else ()), *told])
    verdict = f"no longer ok: {new.status}" if worse else _verdict(comparison, new, beyond)
    return Change(name, old, new, comparison, verdict, worse or beyond, different)


def _verdict(comparison: Comparison | None, new: Pooled, beyond: bool) -> str:
    if comparison is None:
        return "ok now" if new.ok else f"not ok, then and now: {new.status}"
    ratio = comparison.ratio
    if ratio.basis == "single":
        return "single runs"
    if not ratio.resolved:
        more = f"; about {ratio.more_repeats} more repeats would" if ratio.more_repeats else ""
        return f"no difference resolved{more}"
    if ratio.ratio < 1:
        return "faster"
    return "slower" if beyond else "slower, not for sure by more than the tolerance"


def _step_time(side: Pooled | None) -> str:
    """In words, with the number of runs."""
    figure = side.figure("step_time_s") if side else None
    if side is None or figure is None:
        return side.status if side else "–"
    return f"{seconds(figure.mean)} (n {figure.runs})"


def _side(which: str, side: Pooled | None) -> Iterator[tuple[str, Scalar]]:
    figure = side.figure("step_time_s") if side else None
    yield f"{which}_status", side.status if side else None
    yield f"{which}_runs", figure.runs if figure else 0
    yield f"{which}_step_time_s", figure.mean if figure else None


def _asides(found: Sequence[Change]) -> Iterator[str]:
    """Yield the other differences between the sides, once each, with the settings concerned."""
    both = [change for change in found if change.old and change.new]
    for text in dict.fromkeys(change.differences for change in both if change.differences):
        about = [change.name for change in both if change.differences == text]
        where = "" if len(about) == len(both) else f"{'; '.join(about)}: "
        yield f"{where}old and new differ: {text}"
