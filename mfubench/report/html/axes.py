"""Draw bars, lines and step times with matplotlib's axes, at a width that a phone has room for."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mfubench.measure.metric_table import seconds
from mfubench.report.html.svg import BAD, INK, LINE, QUIET, SHADE, svg
from mfubench.report.overview import Row
from mfubench.report.pooling import Figure, Pooled
from mfubench.report.settings import one_line

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.ticker import Formatter

WIDTH, HEIGHT = 330, 170  # points: of a chart, and of axes with lines
EDGE = 34  # points right of the axes of bars, for half of the last tick's label
TEXT, BAR, GAP = 17, 13, 9  # points: a line of text, a bar, the space between rows
LETTER, LETTERS = 7, 46  # points that a letter of a value takes at most, and letters on a line
LEAST_RANGE = 0.06  # of the mean step time: noise smaller than a hundredth looks as small as it is
MARKERS = "os^DvP"  # so that a line is known without its colour; as many as colours


@dataclass(frozen=True)
class Plot:
    """A picture with the words around it."""

    title: str
    picture: Markup
    about: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar, its entry in the legend, the text behind it, and how far its interval reaches below and above its end."""

    kind: str
    length: float
    text: str = ""
    below: float = 0.0
    above: float = 0.0


def in_words(status: str) -> str:
    """Write a status in words: out of memory."""
    return status.replace("_", " ")


def draw_bars(
    title: str,
    about: str,
    rows: Sequence[Row],
    of: Callable[[Pooled], list[list[Bar]]],
    tick: Formatter | str,
    marks: Callable[[Pooled], Mapping[str, float | None]] = lambda row: {},
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plot | None:
    """Draw a label per row over its lines of bars, or over why it has none; None if no row has any.

    `of` returns a row's lines, each of bars end to end; `tick` formats the values of the axis; `marks` returns the values at
    which lines stand across a row's bars, by their entry in the legend; `looks`: matplotlib's of bars, by kind.
    """
    from matplotlib.ticker import MaxNLocator

    axes = blank_axes()
    bars: dict[str, list[tuple[float, float, Bar]]] = {}  # by kind: middle, left end
    across: dict[str, list[tuple[float, float, float]]] = {}  # by kind: where, top, bottom
    y = farthest = 0.0  # y: points below the top
    for row in rows:
        y += _write(axes, y, row.name, "label")
        lines, top = of(row.pooled), y
        if not lines:
            y += _write(axes, y, "not known" if row.figures else in_words(row.pooled.status), "absent", color=BAD)
        for line in lines:
            left = 0.0
            for bar in line:
                bars.setdefault(bar.kind, []).append((y + BAR / 2, left, bar))
                left += bar.length
                end = left + bar.above
                farthest = max(farthest, end, end * (WIDTH - EDGE) / (WIDTH - LETTER * len(bar.text) - 6))
            y += BAR
        for kind, where in marks(row.pooled).items() if lines else ():
            if where:
                across.setdefault(kind, []).append((where, top - 2, y + 2))
                farthest = max(farthest, where)
        y += GAP
    handles: list[Any] = [_series(axes, kind, placed, (looks or {}).get(kind, {})) for kind, placed in bars.items()]
    for (kind, found), colour, dashes in zip(across.items(), (INK, QUIET), ("-", ":"), strict=False):
        stroke: dict[str, Any] = {"colors": colour, "linestyles": dashes, "lw": 2, "gid": "mark", "clip_on": False}
        handles.append(axes.vlines(*zip(*found, strict=True), label=kind, **stroke))
    axes.set(xlim=(0, farthest or 1), ylim=(y, 0))
    axes.yaxis.set_visible(False)
    axes.xaxis.tick_top()
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], prune="lower"))
    axes.xaxis.set_major_formatter(tick)
    axes.grid(axis="x")
    name = "".join(filter(str.isalnum, title))
    return Plot(title, picture(axes, name, title, (WIDTH, y), (1, EDGE, 0, 21), handles), about) if bars else None


def _series(
    axes: Axes, kind: str, placed: Sequence[tuple[float, float, Bar]], looks: Mapping[str, Any]
) -> BarContainer:
    """Draw the bars of a kind, each with its interval and its text."""
    middles, lefts, bars = zip(*placed, strict=True)
    errors = [[bar.below for bar in bars], [bar.above for bar in bars]]
    interval: dict[str, Any] = {
        "xerr": errors if any(errors[0]) else None,
        "error_kw": {"elinewidth": 1.2},
        "ecolor": INK,
    }
    drawn = axes.barh(middles, [bar.length for bar in bars], BAR - 2, lefts, label=kind, **interval, **looks)
    words = axes.bar_label(drawn, [bar.text for bar in bars], padding=5, size=11, annotation_clip=False)
    classed("bar", drawn.patches)
    classed("interval", drawn.errorbar.lines[2] if drawn.errorbar else ())
    classed("value", words)
    return drawn


def classed(name: str, artists: Iterable[Artist]) -> None:
    """Make a name the artists' class in the page."""
    for artist in artists:
        artist.set_gid(name)  # which svg() makes its class


def _write(axes: Axes, y: float, text: str, kind: str, **looks: Any) -> float:
    """Write a text from `y` downwards; return its height."""
    lines = _wrapped(text)
    axes.text(0, y + 3, lines, va="top", gid=kind, **looks)
    return TEXT * (1 + lines.count("\n"))


def draw_lines(
    lines: Sequence[tuple[str, Mapping[Any, Pooled]]],
    name: str,
    title: str,
    of: Callable[[Pooled], Figure | None],
    tick: Formatter,
    written: Callable[[Any], str] = str,
) -> Markup:
    """Draw a figure by size, sizes side by side; crosses under the axis for those that did not run, a row per line.

    `of` returns a setting's figure, `tick` formats it on the axis; `written` returns a size's label, of one or two lines.
    """
    from matplotlib.ticker import MaxNLocator

    axes = blank_axes()
    places = sorted({size for _, sizes in lines for size in sizes})
    words = [written(place) for place in places]
    cross: dict[str, Any] = {"marker": "x", "ms": 7, "mew": 2.2, "ls": "none"}
    under: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "gid": "absent"}
    handles: list[Any] = []
    below = 0.0
    for (label, sizes), marker in zip(lines, MARKERS, strict=False):
        figures = [(places.index(size), of(row)) for size, row in sizes.items()]
        xs, means, *errors = zip(
            *sorted((x, each.mean, *interval_errors(each)) for x, each in figures if each), strict=True
        )
        drawn = axes.errorbar(xs, means, errors, ecolor=INK, elinewidth=1.2, marker=marker, label=_wrapped(label))
        classed("interval", drawn.lines[2])
        handles.append(drawn)
        if missing := [x for x, figure in figures if not figure]:
            depth = [-(below + 0.6 * BAR) / HEIGHT] * len(missing)
            axes.plot(missing, depth, color=drawn.lines[0].get_color(), **cross, **under)
            below += BAR
    if statuses := sorted({in_words(row.status) for _, sizes in lines for row in sizes.values() if not row.ok}):
        text = _wrapped(f"did not run to its end: {', '.join(statuses)}")
        handles += axes.plot([], [], color=INK, label=text, **cross)
    axes.set(xlim=(-0.5, len(places) - 0.5), ylim=(0, 1.05 * axes.dataLim.y1))
    axes.set_xticks(range(len(places)), words)
    axes.tick_params("x", pad=below + 4, labelcolor=INK)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(tick)
    axes.grid(axis="y")
    below += TEXT * max(word.count("\n") for word in words)
    return picture(axes, name, title, (WIDTH, HEIGHT), (40, 14, below + 22, 8), handles)


def draw_step_times(runs: Sequence[tuple[Sequence[float], int]], name: str, title: str) -> Markup:
    """Draw the step times of repeats over each other, each with the length of its warm-up.

    Steps of warm-up in all repeats are shaded, and may leave the picture.
    """
    axes = blank_axes()
    windows = [times[warmup:] for times, warmup in runs]
    mean = fmean(map(fmean, windows))
    low, high = min(map(min, windows)), max(map(max, windows))
    spare = max(LEAST_RANGE * mean - (high - low), 0) / 2 + 0.08 * (high - low)
    ticks = [mean, *(end for end in (low, high) if abs(end - mean) > 0.17 * (high - low + 2 * spare))]
    last = max(len(times) for times, _ in runs)
    axes.axvspan(1, min(warmup for _, warmup in runs) + 0.5, color=SHADE, lw=0, gid="warmup")
    for end, colour in ((low, LINE), (high, LINE), (mean, QUIET)):
        axes.axhline(end, color=colour, lw=1)
    for times, _ in runs:
        axes.plot(range(1, len(times) + 1), times, lw=1.1, gid="series")
    axes.set(xlim=(1, max(last, 2)), ylim=(max(low - spare, 0), high + spare))
    axes.set_yticks(ticks, map(seconds, ticks))
    axes.get_yticklabels()[0].set_color(INK)
    axes.set_xticks([1, last], ["step 1", f"{last}"])
    return picture(axes, name, title, (260, 78), (60, 12, 18, 6))


def blank_axes() -> Axes:
    """Return axes to draw in, which `picture` places."""
    from matplotlib.figure import Figure as Canvas

    return Canvas().add_axes((0, 0, 1, 1))


def picture(
    axes: Axes, name: str, title: str, size: Sequence[float], around: Sequence[float], handles: Sequence[Any] = ()
) -> Markup:
    """Write axes with a legend above them as SVG, in two columns if it has more than six entries.

    In points, `size` is the figure's width and the axes' height, `around` the room left of the axes, right of them, below, and
    between them and the legend.
    """
    width, height = size
    left, right, below, above = around
    figure = axes.get_figure(root=True)
    assert figure is not None
    columns = 1 if len(handles) <= len(MARKERS) else 2
    lines = math.ceil(sum(1 + handle.get_label().count("\n") for handle in handles) / columns)
    whole = TEXT * lines + above + height + below
    figure.set_size_inches(width / 72, whole / 72)
    axes.set_position((left / width, below / whole, (width - left - right) / width, height / whole))
    if handles:
        figure.legend(handles=handles, loc="upper left", ncols=columns)
    return svg(figure, name, title)


def _wrapped(text: str) -> str:
    """Break a text into lines; whatever its length, none of it is lost, so that no two become the same."""
    return "\n".join(textwrap.wrap(one_line(text), LETTERS, break_on_hyphens=False))


def interval_errors(figure: Figure) -> tuple[float, float]:
    """Return how far the interval reaches below the mean, at most to zero, and above it; 0 for an end it lacks."""
    low, high = (figure.mean if end is None else end for end in (figure.low, figure.high))
    return max(figure.mean - max(low, 0), 0), max(high - figure.mean, 0)
