"""Series → pictures: step times one after the other, and throughput over the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from mfubench.report.html.drawing import INK, LINE, QUIET, SERIES, SHADE, Picture, svg
from mfubench.report.html.units import seconds, short

PANEL_WIDTH, PANEL_HEIGHT = 260, 104  # pixels
POINTS = 160  # of a series at most; two of them are its extremes over as many steps as they stand for
LEAST_RANGE = 0.06  # of the mean: noise smaller than a hundredth looks as small as it is
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 330, 220, 44, 14, 12, 26
BAND = 13  # pixels under the axis for each series with batch sizes that did not run
MARKERS = "os^DvP"  # so that a series is known without its colour, as many as colours


@dataclass(frozen=True)
class Series:
    """A run's step times in s, `warmup` of which come before the steady ones."""

    times: Sequence[float]
    warmup: int


@dataclass(frozen=True)
class Line:
    """Tokens/s per device by batch size, with their intervals; and the batch sizes that did not run, by status."""

    label: str
    points: Mapping[int, tuple[float, float, float]]  # batch size -> mean, low, high
    failed: Mapping[int, str]


def panel(runs: Sequence[Series], name: str, description: str) -> Markup:
    """The step times of the repeats of one setting over each other. What is warm-up in all is shaded, and may leave the panel."""
    picture = Picture(PANEL_WIDTH, PANEL_HEIGHT)
    left, right, top, bottom = 52, PANEL_WIDTH - 4, 8, PANEL_HEIGHT - 18
    windows = [run.times[run.warmup :] for run in runs]
    mean = fmean(fmean(window) for window in windows)
    steady = [time for window in windows for time in window]
    low, high = min(steady), max(steady)
    spare = max(LEAST_RANGE * mean - (high - low), 0) / 2 + 0.08 * (high - low)
    low, high = max(low - spare, 0), high + spare
    last = max(len(run.times) for run in runs)

    def x(step: float) -> float:
        return left + (right - left) * (step - 1) / max(last - 1, 1)

    def y(time: float) -> float:
        return bottom - (bottom - top) * (time - low) / (high - low)

    warm = x(min(run.warmup for run in runs) + 0.5)
    picture.box(left, top, warm - left, bottom - top, SHADE, kind="warmup")
    for value in (low + spare, mean, high - spare):
        picture.line([left, right], [y(value)] * 2, QUIET if value == mean else LINE)
    for run, colour in zip(runs, SERIES * len(runs), strict=False):
        steps, times = thinned(run.times)
        box = (left, top, right - left, bottom - top)
        picture.line([x(step) for step in steps], [y(time) for time in times], colour, 1.1, "series", box)
    picture.text(left - 5, y(mean) + 3.5, seconds(mean), 11, align="right", kind="value")
    for value in (high - spare, low + spare):
        if abs(y(value) - y(mean)) > 13:
            picture.text(left - 5, y(value) + 3.5, seconds(value), 10, QUIET, "right")
    picture.text(left, bottom + 13, "step 1", 10, QUIET)
    picture.text(right, bottom + 13, f"{last}", 10, QUIET, "right")
    return svg(picture, name, description)


def thinned(times: Sequence[float]) -> tuple[list[float], list[float]]:
    """Steps, from 1, and times: of a long series the least and the most of each stretch, in the order they came."""
    stretch = -(-len(times) // (POINTS // 2))
    if stretch <= 2:
        return [float(step) for step in range(1, len(times) + 1)], list(times)
    kept: list[int] = []
    for start in range(0, len(times), stretch):
        part = range(start, min(start + stretch, len(times)))
        kept += sorted({min(part, key=times.__getitem__), max(part, key=times.__getitem__)})
    return [step + 1.0 for step in kept], [times[step] for step in kept]


def throughput(lines: Sequence[Line], name: str, description: str) -> Markup:
    """As many lines as there are colours at most. Batch sizes stand side by side, whatever lies between them; those that
    did not run are crosses under the axis, a row per line."""
    failing = [line for line in lines if line.failed]
    picture = Picture(WIDTH, HEIGHT + BAND * len(failing))
    batches = sorted({batch for line in lines for batch in (*line.points, *line.failed)})
    inset = (WIDTH - LEFT - RIGHT) / len(batches) / 2
    across = {batch: LEFT + inset * (2 * place + 1) for place, batch in enumerate(batches)}
    most = max((high for line in lines for _, _, high in line.points.values()), default=1.0)
    base = HEIGHT - BOTTOM

    def y(value: float) -> float:
        return base - (base - TOP) * value / (1.05 * most)

    from matplotlib.ticker import MaxNLocator

    for value in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, most):
        if value <= 1.05 * most:
            picture.line([LEFT, WIDTH - RIGHT], [y(value)] * 2, LINE, zorder=0)
            picture.text(LEFT - 6, y(value) + 3.5, short(value), 11, QUIET, "right")
    foot = base + BAND * len(failing) + 14
    for batch, x in across.items():
        picture.text(x, foot, str(batch), 11, align="center", kind="label")
    for line, colour, marker in zip(lines, SERIES, MARKERS, strict=False):
        sizes = sorted(line.points)
        xs, ys = [across[size] for size in sizes], [y(line.points[size][0]) for size in sizes]
        picture.line(xs, ys, colour, 1.6, "line", marker=marker, markersize=6)
        for size, (_, low, high) in line.points.items():
            picture.line([across[size]] * 2, [y(max(low, 0)), y(high)], INK, 1.2, "interval")
        for size in line.failed:
            row = base + BAND * (failing.index(line) + 0.6)
            picture.line([across[size]], [row], colour, kind="absent", marker="x", markersize=7, markeredgewidth=2.2)
    return svg(picture, name, description)
