"""Groups of horizontal bars → a picture. A group's label stands above its bars, so that both have the whole width of a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mfubench.report.html.drawing import BAD, INK, LINE, QUIET, Picture, shortened, svg
from mfubench.report.html.units import axis

WIDTH, RIGHT = 330, 130  # pixels: of the picture, and of the room for figures behind the longest bar
EDGE = 36  # pixels from the right, for the words of the last tick
TOP, LABEL, BAR, GAP = 22, 18, 13, 11
LETTERS = 48  # of a label, and of what stands in the place of bars


@dataclass(frozen=True)
class Bar:
    """A bar of one or more parts end to end, what is written behind it, and its interval."""

    parts: Sequence[tuple[float, str]]  # length and colour
    text: str
    interval: tuple[float, float | None] | None = None  # None at its upper end: without end


@dataclass(frozen=True)
class Group:
    """A label over bars, with marks across them; or the reason why there are none."""

    label: str
    bars: Sequence[Bar] = ()
    marks: Sequence[tuple[float, str, str]] = ()  # where, colour, line style
    instead: str | None = None


def bars(groups: Sequence[Group], name: str, description: str, tick: Callable[[float], str]) -> Markup:
    """The groups as SVG; `tick` puts a value on the axis into words with its unit."""
    from matplotlib.ticker import MaxNLocator

    heights = [LABEL + max(len(group.bars), 1) * BAR + GAP for group in groups]
    height = TOP + sum(heights)
    picture = Picture(WIDTH, height)
    scale = _scale(groups)
    last = (WIDTH - EDGE) / scale
    ticks = [value for value in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, last) if 0 <= value <= last]
    for value, words in zip(ticks, axis(ticks, tick), strict=True):
        picture.line([value * scale] * 2, [TOP - 4, height - GAP], LINE, zorder=0)
        picture.text(value * scale, TOP - 8, words, 10.5, QUIET, "center" if value else "left")
    y = TOP
    for group, taken in zip(groups, heights, strict=True):
        _draw(picture, group, y, scale)
        y += taken
    return svg(picture, name, description)


def _scale(groups: Sequence[Group]) -> float:
    """Pixels per unit, so that the longest bar has room for its words, and the farthest mark is in the picture."""
    bar = max((_end(bar) for group in groups for bar in group.bars), default=0)
    mark = max((where for group in groups for where, _, _ in group.marks), default=0)
    return min([(WIDTH - RIGHT) / bar if bar else 1.0, *([(WIDTH - 4) / mark] if mark else [])])


def _end(bar: Bar) -> float:
    whole = sum(length for length, _ in bar.parts)
    return max(whole, (bar.interval[1] if bar.interval else None) or 0)


def _draw(picture: Picture, group: Group, top: float, scale: float) -> None:
    picture.text(0, top + LABEL - 5, shortened(group.label, LETTERS), kind="label")
    y = top + LABEL
    if group.instead is not None:
        picture.text(0, y + BAR - 2, shortened(group.instead, LETTERS), colour=BAD, kind="absent")
    for bar in group.bars:
        end = 0.0
        for length, colour in bar.parts:
            picture.box(end * scale, y + 1, length * scale, BAR - 2, colour, kind="bar")
            end += length
        if bar.interval:
            low, high = bar.interval
            ends = [max(low, 0) * scale, (end if high is None else high) * scale]
            picture.line(ends, [y + BAR / 2] * 2, INK, 1.2, kind="interval")
        picture.text(_end(bar) * scale + 5, y + BAR - 2.5, bar.text, 11, kind="value")
        y += BAR
    for where, colour, line in group.marks:
        picture.line([where * scale] * 2, [top + LABEL - 2, y + 2], colour, 2, kind="mark", linestyle=line)
