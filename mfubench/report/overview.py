"""Put results into the words of every form of the report: rows, what they share, ratios, remarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mfubench.measure.metric_table import COLUMNS
from mfubench.report.cells import figures_in_words
from mfubench.report.pooling import Pooled, pool
from mfubench.report.ratios import TASK, Comparison, comparisons, fastest, sentence
from mfubench.report.settings import one_line
from mfubench.result.result_file import Result

LEGEND = (
    "MFU: the FLOPs that training needs (no recomputation, attention over the full square) / (step time × peak). "
    "HFU: those that are executed, recomputation included. Causal: without attention's masked half. "
)
OVER_STEPS = "±: 95 % interval of the mean."
OVER_RUNS = "±: 95 % interval of the mean; over the runs where n is more than 1, else over the steps of the one run."
SINGLE = (
    "Single runs say nothing of how runs differ, so that no difference between them is resolved; "
    "-m 'repeat=range(3)' would tell."
)


@dataclass(frozen=True)
class Row:
    """A setting, as a table shows it."""

    pooled: Pooled
    name: str  # what tells it from the others: mode lora, batch 2
    figures: Mapping[str, str]  # by heading; none unless a run is ok
    fastest: bool  # resolvably so, among all that did the same work


@dataclass(frozen=True)
class Remark:
    """A sentence about some rows: why one isn't ok, or a warning."""

    about: tuple[str, ...]  # names of rows
    kind: str  # a status, or a warning's kind
    text: str
    failure: bool  # else a warning


@dataclass(frozen=True)
class RatioLine:
    """A comparison as a sentence, and what else differs between the two."""

    comparison: Comparison
    text: str
    differences: str  # a sentence; empty: nothing does


@dataclass(frozen=True)
class Overview:
    """The texts above and below a report's table, and its rows."""

    shared: Mapping[str, str]  # settings that all rows have
    devices: tuple[str, ...]  # and the peaks that figures are relative to
    varying: tuple[str, ...]  # settings that are columns
    headings: tuple[str, ...]  # figures that are columns
    rows: tuple[Row, ...]
    ratios: tuple[RatioLine, ...]
    note: str  # on the ratios; empty: none
    remarks: tuple[Remark, ...]
    legend: str  # empty where there are no figures

    @property
    def repeated(self) -> bool:
        """True if a row has several runs."""
        return any(len(row.pooled.results) > 1 for row in self.rows)

    @property
    def columns(self) -> list[str]:
        """The table's header: settings, status, number of runs if there are repeats, figures."""
        return [*self.varying, "status", *(["n"] if self.repeated else []), *self.headings]

    def cells(self, row: Row) -> list[str]:
        """A row's cells, one for each column."""
        settings = [row.pooled.settings[key] for key in self.varying]
        status = row.pooled.status + (", fastest" if row.fastest else "")
        runs = [str(len(row.pooled.ok))] if self.repeated else []
        return [*settings, status, *runs, *(row.figures.get(heading, "–") for heading in self.headings)]


def overview(results: Sequence[Result]) -> Overview:
    """Everything that a report says of results, at least one."""
    settings = pool(results)
    first = settings[0].settings
    varying = tuple(key for key in first if len({each.settings[key] for each in settings}) > 1)
    winners = {id(each) for each in fastest(settings)}
    names = labels(settings)
    figures = [figures_in_words(each) for each in settings]
    compared = comparisons(settings)
    rows = tuple(Row(*of, fastest=id(of[0]) in winners) for of in zip(settings, names, figures, strict=True))
    over = OVER_RUNS if len(results) > len(rows) else OVER_STEPS
    return Overview(
        shared={key: value for key, value in first.items() if value and key not in varying},
        devices=tuple(_devices(results)),
        varying=varying,
        headings=tuple(key for key in COLUMNS if any(key in each for each in figures)),
        rows=rows,
        ratios=tuple(line for task in compared for line in _ratio_lines(task, varying)),
        note=SINGLE if any(each.ratio.basis == "single" for task in compared for each in task) else "",
        remarks=tuple(_merged([*_failures(rows), *_warnings(rows)])),
        legend=LEGEND + over if any(figures) else "",
    )


def labels(settings: Sequence[Pooled]) -> list[str]:
    """Name each setting by as many of the differing values as tell them apart; a single one by its runs' name."""
    chosen: list[str] = []
    told = 1
    keys = [key for key in settings[0].settings if len({each.settings[key] for each in settings}) > 1]
    alone = [key for key in keys if len({each.settings[key] for each in settings}) == len(settings)]
    for key in alone[:1] or keys:
        apart = len({tuple(each.settings[name] for name in [*chosen, key]) for each in settings})
        if apart > told:
            chosen, told = [*chosen, key], apart
    named = (", ".join(_said(key, each.settings[key]) for key in chosen) for each in settings)
    return [name or one_line(each.results[0].name) for name, each in zip(named, settings, strict=True)]


def _said(key: str, value: str) -> str:
    return value if key == "framework" else f"{key} {value or 'none'}"


def _ratio_lines(task: Sequence[Comparison], varying: Sequence[str]) -> Iterator[RatioLine]:
    """Yield each comparison, under the name of its task if there are several."""
    settings = [task[0].one, *(each.other for each in task)]
    baseline, *others = labels(settings)
    where = ", ".join(_said(key, settings[0].settings[key]) for key in varying if key in TASK)
    for comparison, other in zip(task, others, strict=True):
        text = sentence(comparison.ratio, baseline, other)
        different = "; ".join(map(str, comparison.differences))
        kind = "the same work, done otherwise" if comparison.same_work else "over different work"
        yield RatioLine(
            comparison,
            f"{where}: {text}" if where else text,
            f"{kind} ({baseline} and {other}): {one_line(different)}" if different else "",
        )


def _failures(rows: Sequence[Row]) -> Iterator[Remark]:
    for row in rows:
        runs = [run for run in row.pooled.results if run.reason]
        for status, reason in dict.fromkeys((run.status, run.reason or "") for run in runs):
            with_it = [run for run in runs if (run.status, run.reason) == (status, reason)]
            yield Remark((_of(row, with_it),), status, f"{status}: {reason}", failure=True)


def _of(row: Row, runs: Sequence[Result]) -> str:
    """Name the row, and the repeats concerned unless it is all."""
    if len(runs) == len(row.pooled.results):
        return row.name
    return f"{row.name} (repeat {', '.join(str(run.settings['repeat']) for run in runs)})"


def _warnings(rows: Sequence[Row]) -> Iterator[Remark]:
    """One of each kind for a row: repeats say the same with other figures."""
    for row in rows:
        said = [(warning.kind, warning.text, run) for run in row.pooled.results for warning in run.warnings]
        for kind in dict.fromkeys(kind for kind, _, _ in said):
            texts = list(dict.fromkeys(text for of_kind, text, _ in said if of_kind == kind))
            runs = {id(run): run for of_kind, _, run in said if of_kind == kind}
            more = f" (the first of {len(runs)} runs that say so)" if len(runs) > 1 and len(texts) > 1 else ""
            for text in texts if not more else texts[:1]:
                yield Remark((_of(row, list(runs.values())),), kind, text + more, failure=False)


def _merged(remarks: Sequence[Remark]) -> Iterator[Remark]:
    """Every remark once, about all the rows that it is about."""
    for failure, kind, text in dict.fromkeys((each.failure, each.kind, each.text) for each in remarks):
        alike = [each for each in remarks if (each.failure, each.kind, each.text) == (failure, kind, text)]
        about = tuple(dict.fromkeys(name for each in alike for name in each.about))
        yield Remark(about, kind, _printable(text), failure)


def _printable(text: str) -> str:
    """With its line breaks, and without what a terminal would obey."""
    return "\n".join(filter(None, map(one_line, text.splitlines())))


def _devices(results: Sequence[Result]) -> Iterator[str]:
    """The devices, and the peaks that the results are relative to."""
    peaks: dict[tuple[str, ...], list[float]] = {}
    for h in (result.hardware for result in results):
        if h and h.peak_flops_per_second:
            source = "measured before each run" if h.peak_measured else h.peak_source or ""
            peaks.setdefault((h.device_name, h.peak_dtype or "", source), []).append(h.peak_flops_per_second / 1e12)
    for (name, dtype, source), values in peaks.items():
        yield one_line(f"{name}: peak {_range(values)} TFLOP/s in {dtype}, {source}")


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low}–{high}"


@dataclass(frozen=True)
class Section:
    """A title, paragraphs of plain text (nothing in them is markup), and a table under them.

    Every row has a cell per header; no headers: no table.
    """

    title: str
    paragraphs: Sequence[str] = ()
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
