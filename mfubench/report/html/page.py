"""Results → one HTML file: what was compared, the table, plots, and in folds where every figure comes from.

It needs no network and runs no script. Every value of a result is text in it, whatever it holds: the template escapes all,
and the page forbids itself to load or run anything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from mfubench.measure.metric_table import COLUMNS
from mfubench.report.html.axes import in_words
from mfubench.report.html.charts import charts, panels
from mfubench.report.html.details import Details, details
from mfubench.report.overview import Overview, Section, overview
from mfubench.result.result_file import Result

HERE = Path(__file__).parent
OPEN_PANELS = 12  # more of them are folded away
LETTERS = 30  # of values in the title


def page(results: Sequence[Result], notes: Sequence[str] = (), sections: Sequence[Section] = ()) -> str:
    """The page of at least one result, in the order in which they are to be shown.

    `notes`: sentences to stand above all, as of files that could not be read; `sections`: parts to stand below the plots.
    """
    seen = overview(results)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.jinja").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        title=_title(seen),
        counts=_counts(results, seen),
        seen=seen,
        COLUMNS=COLUMNS,
        in_words=in_words,
        charts=charts(seen.rows),
        panels=panels(seen.rows),
        OPEN_PANELS=OPEN_PANELS,
        details=_details(results, seen),
        notes=notes,
        sections=sections,
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold halves of pairs, a file can't


def _title(seen: Overview) -> str:
    """Name the page by the settings that differ between rows, with their values if there are few; a single row by its name.

    A setting that varies together with one already named is left out.
    """
    if not seen.varying:
        return seen.rows[0].name
    settings = [row.pooled.settings for row in seen.rows]
    named: list[str] = []
    for key in seen.varying:
        if len({tuple(own[name] for name in [*named, key]) for own in settings}) > len(
            {tuple(own[name] for name in named) for own in settings}
        ):
            named.append(key)
    return ", ".join(_values(key, dict.fromkeys(own[key] for own in settings if own[key])) for key in named)


def _values(key: str, values: Collection[str]) -> str:
    listed = ", ".join(sorted(values, key=int) if all(value.isdecimal() for value in values) else values)
    return f"{key} ({listed if len(listed) <= LETTERS else f'{len(values)} of them'})"


def _counts(results: Sequence[Result], seen: Overview) -> str:
    """Say how many runs there are, how they ended, and when they were made."""
    statuses: dict[str, int] = {}
    for result in results:
        statuses[result.status] = statuses.get(result.status, 0) + 1
    several = len(results) > 1
    ended = ", ".join(f"{number if several else ''} {in_words(status)}".strip() for status, number in statuses.items())
    days = sorted({result.started_at[:10] for result in results})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    runs = f"{len(results)} runs" if several else "1 run"
    settings = f" of {len(seen.rows)} settings" if len(results) > len(seen.rows) > 1 else ""
    return f"{runs}{settings}: {ended}. {when}."


def _details(results: Sequence[Result], seen: Overview) -> Details:
    """Return the details of all runs by row name, with the number of the repeat."""
    names = {}
    for row in seen.rows:
        for run in row.pooled.results:
            repeat = f", repeat {run.settings['repeat']}" if len(row.pooled.results) > 1 else ""
            names[id(run)] = row.name + repeat
    return details(results, [names[id(result)] for result in results])
