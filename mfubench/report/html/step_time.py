"""Draw where a step's time goes: bars by category, the way from the peak down to the MFU; list a profile's kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from mfubench.explain.categories import CATEGORIES, short_name
from mfubench.explain.explanation import Explanation
from mfubench.explain.waterfall import Waterfall
from mfubench.measure.metric_table import percent, rounded, seconds
from mfubench.report.html.axes import BAR, TEXT, WIDTH, Bar, Plot, blank_axes, classed, draw_bars, picture
from mfubench.report.html.svg import CARD, LINE, QUIET
from mfubench.report.overview import Row
from mfubench.report.pooling import Pooled
from mfubench.report.section import Section
from mfubench.report.settings import one_line

# Six colours, then the same hatched.
LOOKS: dict[str, dict[str, Any]] = {
    **{
        name: {"color": f"C{number % 6}", "hatch": "" if number < 6 else "////", "edgecolor": CARD, "lw": 0.6}
        for number, name in enumerate(CATEGORIES)
    },
    "other": {"color": QUIET},
    "idle": {"color": LINE},
}
BELOW = {"matmul": "matmul below peak", "attention": "attention below peak"}
COLOURS = {"level": "C0", "loss": "C1", "gain": "C2", "unneeded": "C3"}
LEAST = 0.0005  # of the peak, for a term to be drawn


def time_by_category(rows: Sequence[Row]) -> Plot | None:
    """Draw a bar of exclusive times for each row whose step time is explained."""
    from matplotlib.ticker import EngFormatter

    shown = {id(row.pooled): row.explained for row in rows if row.explained}
    if not shown:
        return None

    def of(row: Pooled) -> list[list[Bar]]:
        found = shown[id(row)]
        total = found.time.seconds
        *bars, (last, share) = found.shares.items()
        return [[Bar(name, each * total) for name, each in bars] + [Bar(last, share * total, seconds(total))]]

    return draw_bars(
        "A step's time by category",
        "By a profile of a few steps after the measured ones, brought to the measured step. Each moment counts once; idle is "
        "what is left.",
        [row for row in rows if row.explained],
        of,
        EngFormatter("s"),
        looks=LOOKS,
    )


def waterfalls(rows: Sequence[Row]) -> Iterator[Plot]:
    """Draw the waterfall of each row that has one, under what stands out; or say why it has none."""
    shown = [(row.name, row.explained) for row in rows if row.explained]
    for number, (name, found) in enumerate(shown):
        title = "From the peak down to the MFU" + (f": {one_line(name)}" if len(shown) > 1 else "")
        drawn = _waterfall(found.waterfall, f"waterfall-{number}", title) if found.waterfall else Markup()
        yield Plot(title, drawn, " ".join(found.about))


def _waterfall(found: Waterfall, name: str, title: str) -> Markup:
    """Draw a line for each level and each term between them; a gain over the peak starts beyond 100 %."""
    from matplotlib.ticker import PercentFormatter

    bars, level = [("peak", 0.0, 1.0, "level")], 1.0
    parts = (("HFU causal", "loss", found.executed), ("MFU causal", "unneeded", found.needed))
    for end, kind, terms in parts:
        for term, points in terms.items():
            if abs(points) >= LEAST:
                bars.append((BELOW.get(term, term), level, level - points, "gain" if points < 0 else kind))
            level -= points
        bars.append((end, 0.0, level, "level"))
    axes = blank_axes()
    across = axes.get_yaxis_transform()
    for number, (label, begin, end_at, kind) in enumerate(bars):
        y = TEXT * (number + 0.6)
        drawn = axes.barh(y, abs(end_at - begin), BAR - 1, min(begin, end_at), color=COLOURS[kind])
        classed("bar", drawn.patches)
        points = 100 * (end_at - begin)
        text = percent(end_at) if kind == "level" else f"{points:+.1f}".replace("-", "−")
        axes.text(-0.02, y, one_line(label), transform=across, ha="right", va="center", size=11, gid="label")
        axes.text(1.02, y, text, transform=across, ha="left", va="center", size=11, gid="value")
    axes.set(xlim=(0, max(end_at for _, _, end_at, _ in bars)), ylim=(TEXT * (len(bars) + 0.2), 0))
    axes.yaxis.set_visible(False)
    axes.xaxis.tick_top()
    axes.set_xticks([0, 0.5, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x")
    return picture(axes, name, title, (WIDTH, TEXT * (len(bars) + 0.2)), (128, 54, 0, 18))


def profile_tables(found: Explanation) -> list[Section]:
    """List the kernels that take most of a step, and the widest gaps between them."""
    step = sum(found.categories_s.values())
    kernels = [
        (
            short_name(each.name),
            each.category,
            rounded(each.calls),
            f"{each.seconds * 1e3:.3f}",
            percent(each.seconds / step),
        )
        for each in found.kernels
    ]
    gaps = [(f"{each.seconds * 1e3:.3f}", each.host or "in no operator") for each in found.gaps]
    tables = [
        Section(
            "Its kernels or operators", (), ("name", "category", "calls a step", "ms a step", "of the step"), kernels
        ),
        Section("The widest gaps of a profiled step", (), ("ms", "the host was in"), gaps),
    ]
    return [table for table in tables if table.rows]
