"""Results → the tables of a published study beside what was measured here, if every row of the study was. Pure.

The published figures are data: conf/published/. A printed "MFU" may mean anything, so that each is compared with this
project's counts of the published settings, and named after the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mfubench.measure.metric_table import seconds
from mfubench.report.cells import ABSENT, percent, with_interval
from mfubench.report.pooling import Pooled, pool
from mfubench.report.published.studies import Study, StudyRow, counted, meaning, share, studies
from mfubench.report.section import Section
from mfubench.report.work_differences import work_differences
from mfubench.result.flat import at
from mfubench.result.result_file import Result

MEANINGS = {
    "model_flops": "MFU",
    "model_flops_causal": "MFU, causal",
    "hardware_flops": "HFU: it counts what checkpointing recomputes",
    "hardware_flops_causal": "HFU, causal",
}
Pairs = Sequence[tuple[StudyRow, Pooled]]  # published rows, each with the runs that repeat it


def sections(results: Sequence[Result]) -> tuple[Section, ...]:
    """Return the tables of every published study of which each row has a run among the results, ok or not."""
    found: list[Section] = []
    pooled = pool(results)
    for study in studies():
        runs = [_nearest(study, row, pooled) for row in study.rows]
        pairs = [(row, run) for row, run in zip(study.rows, runs, strict=True) if run is not None]
        if len(pairs) == len(study.rows):
            found += [_utilisation(study, pairs), _flops(study, pairs), _step_times(study, pairs), _sides(study, pairs)]
    return tuple(found)


def deviations(study: Study, row: StudyRow, pooled: Pooled) -> list[str]:
    """Return the settings in which the runs here differ from the published ones."""
    wanted, own = {**study.settings, **row.settings}, pooled.results[0].settings
    return [f"{key} {_text(at(own, key))} for {_text(wanted[key])}" for key in wanted if at(own, key) != wanted[key]]


def _nearest(study: Study, row: StudyRow, pooled: Sequence[Pooled]) -> Pooled | None:
    """Return the runs that repeat the row; of several settings, those with the fewest deviations."""
    wanted = {**study.of, **row.of}
    found = [each for each in pooled if all(at(each.results[0].settings, k) == v for k, v in wanted.items())]
    return min(found, key=lambda each: len(deviations(study, row, each)), default=None)


def _utilisation(study: Study, pairs: Pairs) -> Section:
    rows = []
    for row, run in pairs:
        count = counted(study, row)
        shares = [f"{share(study, row, flops):.1%}" for flops in (count.hardware_flops, count.model_flops)]
        hfu = percent(run, "hfu") if run.ok else run.status
        rows.append([*_who(row, run), f"{row.mfu:.1%}", *shares, hfu, percent(run, "mfu")])
    meanings = sorted({MEANINGS[meaning(study, row)] for row, _ in pairs})
    devices = [(run.results[0].settings["parallelism"]["num_devices"], run.results[0].hardware) for _, run in pairs]
    here = dict.fromkeys(f"{number} × {hardware.device_name}" for number, hardware in devices if hardware)
    return Section(
        title=f"{study.title}: utilisation, published and measured",
        paragraphs=(
            f"Published in: {study.source}.",
            f"The figure printed there as MFU is {' and '.join(meanings)}. Its HFU and its MFU are the FLOPs counted "
            f"here for the published settings / (published step time × {study.peak_flops_per_second / 1e12:.4g} TFLOP/s).",
            f"Published: {study.hardware}. Here: {', '.join(here) or 'no device'}.",
            *_differing(study, pairs),
            *study.remarks,
        ),
        headers=("framework", "mode", "printed MFU", "its HFU", "its MFU", "HFU here", "MFU here"),
        rows=rows,
    )


def _flops(study: Study, pairs: Pairs) -> Section:
    rows = []
    for row, run in pairs:
        count, plain = counted(study, row), counted(study, row, "none").hardware_flops
        published = [row.tflop, count.hardware_flops / 1e12, row.tflop_without_recomputation, plain / 1e12]
        here = run.ok[0].flops if run.ok else None
        seen = [f"{getattr(here, name) / 1e12:.4g}" if here else ABSENT for name in ("hardware_flops", "model_flops")]
        rows.append([*_who(row, run), *(f"{tflop:.1f}" for tflop in (*published, count.model_flops / 1e12)), *seen])
    without = ("published, no recomputation", "counted")
    return Section(
        title=f"{study.title}: TFLOP of a step on one device, published and counted",
        paragraphs=(
            "Counted: by this project's closed form, for the published settings, as PyTorch's counter counts: the "
            "backward pass of fused attention is 2.5 times its forward pass. In model TFLOP it is twice, as in PaLM. The "
            "last two columns are of the runs here.",
        ),
        headers=("framework", "mode", "published", "counted", *without, "model", "hardware here", "model here"),
        rows=rows,
    )


def _step_times(study: Study, pairs: Pairs) -> Section:
    rows = []
    for row, run in pairs:
        mean = run.figure("step_time_s")
        here = with_interval(mean, "s") if mean else run.status
        rows.append([*_who(row, run), seconds(row.step_time_s), here])
    return Section(
        title=f"{study.title}: step time, published and measured",
        paragraphs=(study.step_times,),
        headers=("framework", "mode", "published", "mean here"),
        rows=rows,
    )


def _sides(study: Study, pairs: Pairs) -> Section:
    """Compare the two rows of each mode."""
    rows: list[list[str]] = []
    incomplete: list[str] = []
    for mode in dict.fromkeys(row.of["mode.name"] for row, _ in pairs):
        (a, one), (b, other) = (pair for pair in pairs if pair[0].of["mode.name"] == mode)
        settings = [
            *((key, _text(a.settings[key]), _text(b.settings[key]), "published") for key in a.settings),
            *(
                (key, one.settings[key], other.settings[key], "asked here")
                for key in one.settings
                if key != "framework"
            ),
        ]
        rows += [[mode, *each] for each in settings if each[1] != each[2]]
        rows += [[mode, each.what, each.one, each.other, "seen here"] for each in work_differences(one, other)]
        if not (one.ok and other.ok):
            incomplete.append(f"{mode}: not both sides have an ok run here, so their work can't be compared.")
    return Section(
        title=f"{study.title}: what the two sides did differently",
        paragraphs=incomplete,
        headers=("mode", "what", *dict.fromkeys(row.name for row, _ in pairs), "where"),
        rows=rows,
    )


def _differing(study: Study, pairs: Pairs) -> Iterator[str]:
    """Yield the sentence that lists all deviations, each with its rows unless it is of all, if there are any."""
    found: dict[str, list[str]] = {}
    for row, run in pairs:
        for deviation in deviations(study, row, run):
            found.setdefault(deviation, []).append(f"{row.name} {row.of['mode.name']}")
    if found:
        listed = (key if len(of) == len(pairs) else f"{key} ({', '.join(of)})" for key, of in found.items())
        yield f"Settings here that differ from the published ones: {'; '.join(listed)}."


def _who(row: StudyRow, run: Pooled) -> list[str]:
    """Name a row as published, with the framework here if another engine stands in for it; and its mode."""
    here = run.results[0].framework
    return [f"{row.name}; here {here}" if "(" in here else row.name, row.of["mode.name"]]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
