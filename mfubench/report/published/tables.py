"""Results → a published study's tables with what was measured here beside them, where the results are of that study. Pure.

The figures, and what they are of, are data: conf/published/. A study's printed "MFU" may mean anything, so it is held
against this project's own counts of the published settings, by closed form: which of them it is, is found and not assumed.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from mfubench.measure.metric_table import seconds
from mfubench.report.cells import ABSENT, percent, with_interval
from mfubench.report.overview import Section
from mfubench.report.pooling import Pooled, pool
from mfubench.report.published.studies import Study, StudyRow, counted, meaning, share, studies
from mfubench.report.published.tqdm_bar import readings
from mfubench.report.work_differences import work_differences
from mfubench.result.flat import at
from mfubench.result.result_file import Result

MEANINGS = {
    "model_flops": "MFU",
    "model_flops_causal": "MFU, causal",
    "hardware_flops": "HFU: it counts what checkpointing recomputes",
    "hardware_flops_causal": "HFU, causal",
}


def sections(results: Sequence[Result]) -> tuple[Section, ...]:
    """The tables of every published study of which each row has a run among the results, ok or not."""
    found: list[Section] = []
    pooled = pool(results)
    for study in studies():
        runs = [_nearest(study, row, pooled) for row in study.rows]
        here = [(row, run) for row, run in zip(study.rows, runs, strict=True) if run is not None]
        if len(here) == len(study.rows):
            found += [_utilisation(study, here), _flops(study, here), _step_times_of(here), _sides(here)]
    return tuple(found)


def deviations(study: Study, row: StudyRow, pooled: Pooled) -> list[str]:
    """The settings in which the runs here are not the published ones."""
    settings = pooled.results[0].settings
    asked = {key: (at(settings, key), wanted) for key, wanted in {**study.settings, **row.settings}.items()}
    return [
        f"{key} {_setting_text(seen)} for {_setting_text(wanted)}"
        for key, (seen, wanted) in asked.items()
        if seen != wanted
    ]


def _nearest(study: Study, row: StudyRow, pooled: Sequence[Pooled]) -> Pooled | None:
    """The runs that repeat the row; of several settings, the one with the fewest deviations."""
    wanted = {**study.of, **row.of}
    found = [each for each in pooled if all(at(each.results[0].settings, k) == v for k, v in wanted.items())]
    return min(found, key=lambda each: len(deviations(study, row, each)), default=None)


def _utilisation(study: Study, here: Sequence[tuple[StudyRow, Pooled]]) -> Section:
    meanings = {MEANINGS[meaning(study, row)] for row, _ in here}
    rows = []
    for row, run in here:
        count = counted(study, row)
        shares = [f"{share(study, row, flops):.1%}" for flops in (count.hardware_flops, count.model_flops)]
        figures = [percent(run, "hfu"), percent(run, "mfu")] if run.ok else [run.status, ABSENT]
        rows.append([*_who(row, run), f"{row.mfu:.1%}", *shares, *figures])
    return Section(
        title=f"{study.title}: utilisation, published and measured",
        paragraphs=(
            f"Published in: {study.source}.",
            f"What is printed there as MFU is {' and '.join(sorted(meanings))}. Its runs' HFU and MFU: counted here for their "
            f"settings, over the published step times and {study.peak_flops_per_second / 1e12:.4g} TFLOP/s.",
            f"Published: {study.hardware}. Here: {', '.join(_device_names(here)) or 'no device'}.",
            *_differing(study, here),
        ),
        headers=("framework", "mode", "printed MFU", "its HFU", "its MFU", "HFU here", "MFU here"),
        rows=rows,
    )


def _flops(study: Study, here: Sequence[tuple[StudyRow, Pooled]]) -> Section:
    rows = []
    for row, run in here:
        count, plain = counted(study, row), counted(study, row, "none")
        flops = run.ok[0].flops if run.ok else None
        names = ("hardware_flops", "model_flops")
        rows.append(
            [
                *_who(row, run),
                f"{row.tflop:.1f}",
                f"{count.hardware_flops / 1e12:.1f}",
                f"{row.tflop_without_recomputation:.1f}",
                f"{plain.hardware_flops / 1e12:.1f}",
                f"{count.model_flops / 1e12:.1f}",
                *(f"{getattr(flops, name) / 1e12:.4g}" if flops else ABSENT for name in names),
            ]
        )
    return Section(
        title=f"{study.title}: TFLOP of a step on one device, published and counted",
        paragraphs=(
            "Counted: what PyTorch's counter counts, by a closed form of this project for the published settings. It takes a "
            "fused attention's backward for 2.5 times its forward; model TFLOP takes 2, as PaLM does. The last two columns "
            "are of the runs here.",
        ),
        headers=(
            "framework",
            "mode",
            "published",
            "counted",
            "published, no recomputation",
            "counted",
            "model",
            "hardware here",
            "model here",
        ),
        rows=rows,
    )


def _step_times_of(here: Sequence[tuple[StudyRow, Pooled]]) -> Section:
    rows = []
    for row, run in here:
        step_time = run.figure("step_time_s")
        if step_time is None:
            rows.append([*_who(row, run), seconds(row.step_time_s), run.status, ABSENT, ABSENT, ABSENT])
            continue
        bars = [shown for shown in _bars(run) if shown]
        last, steady = [shown[-1] for shown in bars], [reading for shown in bars for reading in shown]
        rows.append(
            [
                *_who(row, run),
                seconds(row.step_time_s),
                with_interval(step_time, "s"),
                seconds(statistics.fmean(last)) if last else ABSENT,
                f"{statistics.fmean(last) / step_time.mean - 1:+.1%}" if last else ABSENT,
                f"{seconds(min(steady))} to {seconds(max(steady))}" if steady else ABSENT,
            ]
        )
    return Section(
        title="Step time: published off tqdm's bar, and measured",
        paragraphs=(
            "tqdm's bar shows a moving average in which a step weighs 0.3, the one before it 0.21, and so on: the last few "
            "steps, whatever they were. What it would have shown of the runs here: after their last step, and anywhere in "
            "their measured steps.",
        ),
        headers=("framework", "mode", "published", "mean here", "bar here, at the end", "off by", "bar here, anywhere"),
        rows=rows,
    )


def _bars(run: Pooled) -> Iterator[list[float]]:
    """Yield the readings of the first rank's progress bar in the measured steps of each run."""
    for result in run.ok:
        measured = result.measurement
        assert measured is not None
        shown = readings(result.step_times_s["0"][: measured.warmup_steps + measured.steps])
        yield shown[-measured.steps :]


def _sides(here: Sequence[tuple[StudyRow, Pooled]]) -> Section:
    """Compare the first two rows of each mode."""
    rows: list[list[str]] = []
    untold: list[str] = []
    names: list[str] = []
    for mode in dict.fromkeys(row.of["mode.name"] for row, _ in here):
        (a, one), (b, other) = [pair for pair in here if pair[0].of["mode.name"] == mode][:2]
        names = [a.name, b.name]
        rows += [
            [mode, key, _setting_text(a.settings[key]), _setting_text(b.settings[key]), "published"]
            for key in a.settings
            if a.settings[key] != b.settings[key]
        ]
        asked = ([key, one.settings[key], other.settings[key]] for key in one.settings if key != "framework")
        rows += [[mode, key, x, y, "asked here"] for key, x, y in asked if x != y]
        rows += [[mode, d.what, d.one, d.other, "seen here"] for d in work_differences(one, other)]
        if not (one.ok and other.ok):
            untold.append(f"{mode}: not both sides have figures here, so what they did can't be compared.")
    return Section(
        title="What the two sides did differently",
        paragraphs=untold,
        headers=("mode", "what", *names, "where"),
        rows=rows,
    )


def _differing(study: Study, here: Sequence[tuple[StudyRow, Pooled]]) -> Iterator[str]:
    """Yield the settings and devices that differ between the runs and the published ones."""
    found: dict[str, list[str]] = {}
    for row, run in here:
        for deviation in deviations(study, row, run):
            found.setdefault(deviation, []).append(f"{row.name} {row.of['mode.name']}")
    told = [
        deviation + ("" if len(rows) == len(here) else f" ({', '.join(rows)})") for deviation, rows in found.items()
    ]
    if told:
        yield f"The runs here are not the published ones: {'; '.join(told)}."
    yield from study.remarks


def _device_names(here: Sequence[tuple[StudyRow, Pooled]]) -> dict[str, None]:
    found = [(run.results[0].settings["parallelism"]["num_devices"], run.results[0].hardware) for _, run in here]
    return dict.fromkeys(f"{devices} × {hardware.device_name}" for devices, hardware in found if hardware)


def _who(row: StudyRow, run: Pooled) -> list[str]:
    """Name a row as published, and as measured if that says more."""
    measured = run.results[0].framework
    return [row.name if "(" not in measured else f"{row.name}; here {measured}", row.of["mode.name"]]


def _setting_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
