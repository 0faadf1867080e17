"""Put results into the words of every form of the report: rows, what they share, ratios, remarks."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mfubench.explain.difference import sentence as difference_in_words
from mfubench.measure.metric_table import COLUMNS, WORDS
from mfubench.report.cells import ABSENT, MEANINGS, figures_in_words
from mfubench.report.first_losses import not_comparable
from mfubench.report.labels import HEAD, SEPARATOR, differing_settings, in_short, labels
from mfubench.report.pooling import Pooled, by_sweep, pool
from mfubench.report.ratios import Comparison, comparisons, fastest, sentence
from mfubench.report.scaling import Scaling, scalings
from mfubench.report.settings import one_line
from mfubench.report.step_time import Explained, explained
from mfubench.result.result_file import Result

SINGLE = "Single runs and runs of few steps resolve no difference; -m 'repeat=range(3)' measurement=default would."
SAME_CLOCK = 0.01  # by which two settings' SM clocks may differ unsaid
NUMBER = re.compile(r"\((GPU|MIG)-[\w-]+\)|[\d.]+")  # and a device's UUID, which differs from row to row


@dataclass(frozen=True)
class Row:
    """A setting, as a table shows it."""

    pooled: Pooled
    name: str  # see labels
    settings: Mapping[str, str]  # in short
    figures: Mapping[str, str]  # by heading; none unless a run is ok
    explained: Explained | None  # where its step time goes; None: no profile says
    fastest: bool  # resolvably so, among all that did the same work


@dataclass(frozen=True)
class Remark:
    """A sentence about some rows: why one isn't ok, or a warning."""

    about: str
    text: str
    failure: bool  # else a warning


@dataclass(frozen=True)
class RatioLine:
    """A comparison as a sentence, what else differs between the two, and where the time went."""

    comparison: Comparison
    text: str
    differences: str  # a sentence; empty: nothing does
    difference: str  # in ms by category, sentences; empty: no profile says


@dataclass(frozen=True)
class Overview:
    """The texts above and below a report's table, and its rows."""

    title: str  # the sweep
    shared: Mapping[str, str]  # settings that don't differ
    devices: tuple[str, ...]  # and the peaks that figures are relative to
    headings: tuple[str, ...]  # figures that are columns
    details: tuple[str, ...]  # settings that are columns: those that differ and aren't in the names of all rows
    rows: tuple[Row, ...]
    ratios: Mapping[str, Sequence[RatioLine]]  # to the first row of each task, by a title that names it
    note: str  # on the ratios; empty: none
    scalings: Sequence[Scaling]  # what ran on several numbers of devices
    remarks: tuple[Remark, ...]

    @property
    def repeated(self) -> bool:
        """True if a row has several runs."""
        return any(len(row.pooled.results) > 1 for row in self.rows)

    @property
    def columns(self) -> list[str]:
        """The table's header: name, status, number of runs if there are repeats, figures, settings."""
        return ["setting", "status", *(["n"] if self.repeated else []), *self.headings, *self.details]

    @property
    def numbers(self) -> range:
        """The columns that hold numbers."""
        return range(2, len(self.columns) - len(self.details))

    def cells(self, row: Row) -> list[str]:
        """A row's cells, one for each column."""
        status = row.pooled.status + (", fastest" if row.fastest else "")
        runs = [str(len(row.pooled.ok))] if self.repeated else []
        figures = [row.figures.get(heading, ABSENT) for heading in self.headings]
        return [row.name, status, *runs, *figures, *(row.settings[key] for key in self.details)]


def overviews(results: Sequence[Result]) -> list[Overview]:
    """Everything that a report says of results: of each sweep, and of each day's single runs, the newest first."""
    return [overview(runs, title) for title, runs in by_sweep(results)]


def legend(tables: Sequence[Overview]) -> list[str]:
    """Explain the columns that the tables have, a line for each meaning, and ± if there is one."""
    cells = [cell for table in tables for row in table.rows for cell in row.figures.items()]
    names: dict[str, list[str]] = {}
    for heading in (heading for heading in COLUMNS if heading in dict(cells)):
        names.setdefault(MEANINGS[heading], []).append(heading)
    lines = [f"{', '.join(together)}: {meaning}" for meaning, together in names.items()]
    over = (
        ", over the runs where n is more than 1, else over the run's steps" if any(t.repeated for t in tables) else ""
    )
    return [*lines, f"±: 95 % interval of the mean{over}"] if any("±" in text for _, text in cells) else lines


def overview(results: Sequence[Result], title: str = "") -> Overview:
    """Everything that a report says of the results of a sweep, at least one."""
    settings = pool(results)
    varying = differing_settings(settings)
    known = {key: cell for each in settings for key, cell in each.settings.items() if cell and key not in varying}
    winners = {id(each) for each in fastest(settings)}
    columns = (
        *(settings, labels(settings), in_short(settings)),
        *(map(figures_in_words, settings), map(explained, settings)),
    )
    rows = tuple(Row(*of, fastest=id(of[0]) in winners) for of in zip(*columns, strict=True))
    name_of = {id(row.pooled): row.name for row in rows}
    compared = comparisons(settings)
    return Overview(
        title=title,
        shared={key: known[key] for key in settings[0].settings if key in known},
        devices=tuple(_devices(results)),
        headings=tuple(key for key in COLUMNS if any(key in row.figures for row in rows)),
        details=tuple(key for key in varying if _is_column(key, rows)),
        rows=rows,
        ratios={
            f"time per step, relative to {name_of[id(task[0].one)]}": [_line(each, name_of) for each in task]
            for task in compared
        },
        note=SINGLE if any(each.ratio.basis == "single" for task in compared for each in task) else "",
        scalings=scalings(settings),
        remarks=tuple(_remarks(rows)),
    )


def _is_column(key: str, rows: Sequence[Row]) -> bool:
    """Return True for a setting of the work that isn't in the names of all rows that have it."""
    values = [(row.settings[key], row.name.split(SEPARATOR)) for row in rows]
    untold = any(value and f"{key} {value}" not in name for value, name in values)
    return untold and key not in HEAD and not key.startswith("measurement")


def _line(each: Comparison, name_of: Mapping[int, str]) -> RatioLine:
    different = "; ".join(f"{which.what} {which.other} instead of {which.one}" for which in each.differences)
    kind = "the same work, done otherwise" if each.same_work else "over different work"
    text = sentence(each.ratio, name_of[id(each.other)])
    reason = not_comparable(each.one, each.other)
    said = [f"{kind}: {one_line(different)}"] * bool(different) + [f"losses not compared: {reason}"] * bool(reason)
    names = [name_of[id(side)] for side in (each.other, each.one)]
    difference = one_line(difference_in_words(each.difference, *names)) if each.difference else ""
    return RatioLine(each, text, "; ".join(said), difference + _clocks(each) if difference else "")


def _clocks(each: Comparison) -> str:
    """Say the SM clocks of two settings if they aren't the same; a kernel that waits for memory doesn't follow them."""
    other, one = (
        [clock for run in side.ok for device in run.conditions if (clock := getattr(device, "sm_clock_mhz_mean", None))]
        for side in (each.other, each.one)
    )
    apart = one and other and abs(fmean(other) / fmean(one) - 1) > SAME_CLOCK
    return f" SM clocks {fmean(other):,.0f} and {fmean(one):,.0f} MHz." if apart else ""


def _remarks(rows: Sequence[Row]) -> Iterator[Remark]:
    """Yield why runs aren't ok, then warnings; one remark for all that say the same, a warning with other numbers included."""
    runs = [run for row in rows for run in row.pooled.results]
    said = [(True, f"{run.status}: {run.reason}", run) for run in runs if run.reason]
    said += [(False, warning.text, run) for run in runs for warning in run.warnings]
    said += [
        (False, f"no profile: {run.no_explanation}", run) for run in runs if run.measurement and run.no_explanation
    ]
    said += [(False, f"profile: {note}", run) for run in runs if run.explanation for note in run.explanation.notes]
    alike: dict[tuple[bool, str], dict[int, str]] = {}
    for failure, text, run in said:
        alike.setdefault((failure, text if failure else NUMBER.sub("", text)), {}).setdefault(id(run), text)
    for (failure, _), texts in alike.items():
        about = [_of(row, texts) for row in rows if any(id(run) in texts for run in row.pooled.results)]
        first, *others = dict.fromkeys(texts.values())
        more = f" (the first of {len(texts)} runs that say so)" if others else ""
        if len(about) > 1 and about == [row.name for row in rows]:
            about = ["all"]
        elif len(about) > 2:
            about = [f"{about[0]} and {len(about) - 1} more"]
        yield Remark("; ".join(about), _printable(first + more), failure)


def _of(row: Row, concerned: Container[int]) -> str:
    """Name the row, and the repeats concerned unless it is all."""
    repeats = [str(run.settings["repeat"]) for run in row.pooled.results if id(run) in concerned]
    return row.name + (f" (repeat {', '.join(repeats)})" if len(repeats) < len(row.pooled.results) else "")


def _printable(text: str) -> str:
    """With its line breaks, and without what a terminal would obey."""
    return "\n".join(filter(None, map(one_line, text.splitlines())))


def _devices(results: Sequence[Result]) -> Iterator[str]:
    """The devices, and the peaks that the results are relative to."""
    peaks: dict[tuple[str, ...], list[float]] = {}
    for result in results:
        h, plan = result.hardware, result.plan
        if h and h.peak_flops_per_second:
            # The threads of a watched command, and so its peak, are known afterwards.
            when = "after" if plan and plan.max_steps is None else "before"
            source = f"measured {when} each run" if h.peak_measured else h.peak_source or ""
            if h.peak_measured and plan and plan.num_ranks > 1:
                source += f", {plan.environment.get('OMP_NUM_THREADS') or (result.work or {}).get('threads')} thread(s) a rank"
            peaks.setdefault((h.device_name, h.peak_dtype or "", source), []).append(h.peak_flops_per_second / 1e12)
    for (name, dtype, source), values in peaks.items():
        yield one_line(f"{name}: peak {_range(values)} TFLOP/s in {dtype}, {source}")


def _range(values: Sequence[float]) -> str:
    low, high = WORDS["TFLOP/s"](min(values)), WORDS["TFLOP/s"](max(values))
    return low if low == high else f"{low}–{high}"
