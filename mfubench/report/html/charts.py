"""Settings with their repeats → the plots of a page: which figures stand in which picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from mfubench.measure.metric_table import WORDS, seconds
from mfubench.report.cells import with_interval
from mfubench.report.html.axes import MARKERS, Bar, Plot, draw_bars, draw_lines, draw_step_times, interval_errors
from mfubench.report.html.step_time import time_by_category, waterfalls
from mfubench.report.html.svg import style
from mfubench.report.labels import labels
from mfubench.report.overview import Overview, Row
from mfubench.report.pooling import Figure, Pooled
from mfubench.report.scaling import Scaling


def charts(seen: Overview) -> list[Plot]:
    """Draw what a part of the page has figures for, in the order in which it is shown."""
    rows = seen.rows
    with style(seen.title):
        drawn = (utilisation(rows), time_by_category(rows), *throughput(rows), ladder(rows), where_time_goes(rows))
        drawn += (memory(rows), *scaling(seen.scalings), *waterfalls(rows))
        return [chart for chart in drawn if chart]


def utilisation(rows: Sequence[Row]) -> Plot | None:
    """MFU and HFU with their intervals."""
    from matplotlib.ticker import PercentFormatter

    kinds = {"mfu": "MFU: what training needs", "hfu": "HFU: what was executed, recomputation included"}

    def of(row: Pooled) -> list[list[Bar]]:
        found = []
        for name, kind in kinds.items():
            if share := row.figure(name):
                text = f"{name.upper()} {with_interval(share, 'fraction')}"
                found.append([Bar(kind, share.mean, text, *interval_errors(share))])
        return found

    return draw_bars(
        "How much of the peak is used",
        "Shares of the device's peak FLOP/s. The thin line over a bar's end is its 95% interval; ± is in points.",
        rows,
        of,
        PercentFormatter(1),
    )


def ladder(rows: Sequence[Row]) -> Plot | None:
    """Executed FLOP/s beside the largest matmul rate seen on this device and the data sheet's peak."""

    def of(row: Pooled) -> list[list[Bar]]:
        figure, peak = row.figure("hfu_causal"), _hardware(row, "peak_flops_per_second")
        if figure is None or peak is None:
            return []
        rate = figure.mean * peak / 1e12
        return [[Bar("executed", rate, WORDS["TFLOP/s"](rate))]]

    def marks(row: Pooled) -> dict[str, float | None]:
        return {
            "peak": _hardware(row, "peak_flops_per_second", 1e12),
            "largest matmul rate measured here": _hardware(row, "ceiling_flops_per_second", 1e12),
        }

    return draw_bars(
        "FLOP/s achieved, and the peak",
        "FLOP/s of one device, without attention's masked half where the kernel skips it. Arithmetic intensity can't be told "
        "from outside, so this is a roofline's height without its slope.",
        rows,
        of,
        "{x:,g} TFLOP/s",
        marks,
    )


def memory(rows: Sequence[Row]) -> Plot | None:
    """Peak memory of the fullest device beside the device's own."""

    def of(row: Pooled) -> list[list[Bar]]:
        peak = row.figure("peak_memory_bytes")
        return [[Bar("peak memory", peak.mean / 2**30, WORDS["bytes"](peak.mean))]] if peak else []

    return draw_bars(
        "Peak memory",
        "Of the fullest device, the most of all runs: on a GPU what torch's allocator held, on a CPU the process's resident "
        "set.",
        rows,
        of,
        "{x:g} GiB",
        lambda row: {"memory of the device": _hardware(row, "memory_bytes", 2**30)},
    )


def where_time_goes(rows: Sequence[Row]) -> Plot | None:
    """The two parts of a step, and the wait for data within them."""
    from matplotlib.ticker import EngFormatter

    def of(row: Pooled) -> list[list[Bar]]:
        first, rest = row.figure("forward_to_optimizer_s"), row.figure("optimizer_to_forward_s")
        wait = row.figure("data_wait_s")
        if first is None or rest is None:
            return []
        text = f"{seconds(first.mean)} + {seconds(rest.mean)}"
        step = [Bar("first forward to optimizer", first.mean), Bar("optimizer to next forward", rest.mean, text)]
        share = f"{WORDS['fraction'](wait.mean / (first.mean + rest.mean))} waiting for data" if wait else ""
        return [step, [Bar("of it, waiting for data", wait.mean, share)]] if wait else [step]

    return draw_bars(
        "Where a step's time goes",
        "Means per steady step. The first two make up the step; the wait for data lies within them.",
        rows,
        of,
        EngFormatter("s"),
    )


def throughput(rows: Sequence[Row]) -> Iterator[Plot]:
    """Tokens/s of settings that ran at several batch sizes, as many lines to a chart as there are colours."""
    from matplotlib.ticker import EngFormatter

    together: dict[tuple[str, ...], dict[int, Pooled]] = {}
    for row in rows:
        alike = tuple(cell for key, cell in row.pooled.settings.items() if key != "batch")
        together.setdefault(alike, {})[int(row.pooled.results[0].settings["batch_size"])] = row.pooled
    several = [sizes for sizes in together.values() if len(sizes) > 1 and any(each.ok for each in sizes.values())]
    first = [next(iter(sizes.values())) for sizes in several]
    names = labels(first) if len(several) > 1 else ["tokens per second and device"] * len(several)
    lines = list(zip(names, several, strict=True))
    title, about = "Throughput over batch size", "Tokens per second and device, by sequences per device and micro-step."

    def of(row: Pooled) -> Figure | None:
        return row.figure("tokens_per_second_per_device")

    for start in range(0, len(lines), len(MARKERS)):
        part = lines[start : start + len(MARKERS)]
        yield Plot(title, draw_lines(part, f"throughput-{start}", title, of, EngFormatter(sep="")), about)


def scaling(found: Sequence[Scaling]) -> Iterator[Plot]:
    """Efficiency of settings that ran on several numbers of devices, as many lines to a chart as there are colours."""
    from matplotlib.ticker import PercentFormatter

    efficiency = {id(point.pooled): point.efficiency for each in found for point in each.points}
    lines = [(each.name, {point.size: point.pooled for point in each.points}) for each in found]
    title, about = "Scaling efficiency", "Tokens per second and device, over those of the fewest devices; by devices."

    def written(size: tuple[int, int]) -> str:
        devices, nodes = size
        return f"{devices}\n{nodes} nodes" if nodes > 1 else str(devices)

    for start in range(0, len(lines), len(MARKERS)):
        part = lines[start : start + len(MARKERS)]
        drawn = draw_lines(
            part, f"scaling-{start}", title, lambda row: efficiency[id(row)], PercentFormatter(1), written
        )
        yield Plot(title, drawn, about)


def panels(rows: Sequence[Row], part: str) -> list[Plot]:
    """Draw the step times of each row of a part of the page that has figures."""
    found = []
    with style(part):
        for number, row in enumerate(rows):
            runs = [
                ([each["step_time_s"] for each in run.history], run.measurement.warmup_steps)
                for run in row.pooled.ok
                if run.measurement and len(run.history) > run.measurement.warmup_steps
            ]
            if runs:
                found.append(Plot(row.name, draw_step_times(runs, f"steps-{number}", f"step times of {row.name}")))
    return found


def _hardware(row: Pooled, name: str, unit: float = 1) -> float | None:
    known = [value for result in row.results if (value := getattr(result.hardware, name, None))]
    return fmean(known) / unit if known else None
