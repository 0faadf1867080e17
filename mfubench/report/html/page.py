"""Results → one HTML file: what was compared, the table, plots, and in folds where every figure comes from.

It needs no network and runs no script. Every value of a result is text in it, whatever it holds: the template escapes all,
and the page forbids itself to load or run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from mfubench.measure.metric_table import COLUMNS
from mfubench.report.html.axes import in_words
from mfubench.report.html.charts import charts, panels
from mfubench.report.html.details import Details, details
from mfubench.report.overview import Overview, Row, legend, overviews
from mfubench.report.scaling import scaling_section
from mfubench.report.section import Section
from mfubench.result.result_file import Result

HERE = Path(__file__).parent
OPEN_PANELS = 12  # more of them are folded away


def page(results: Sequence[Result], notes: Sequence[str] = (), sections: Sequence[Section] = ()) -> str:
    """The page of at least one result: a part for each sweep, the newest first.

    `notes`: sentences to stand above all, as of files that could not be read; `sections`: parts to stand below the plots.
    """
    sweeps = overviews(results)
    only = sweeps[0].rows[0].name if len(sweeps[0].rows) == 1 else sweeps[0].title
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.jinja").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        title=only if len(sweeps) == 1 else f"{len(sweeps)} groups of runs",
        counts=_counts([row for seen in sweeps for row in seen.rows]),
        sweeps=[(seen, _counts(seen.rows), charts(seen), panels(seen.rows, seen.title)) for seen in sweeps],
        legend=legend(sweeps),
        scaling_section=scaling_section,
        COLUMNS=COLUMNS,
        in_words=in_words,
        OPEN_PANELS=OPEN_PANELS,
        details=_details(sweeps),
        notes=notes,
        sections=sections,
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold halves of pairs, a file can't


def _counts(rows: Sequence[Row]) -> str:
    """Say how many runs there are, how they ended, and when they were made."""
    results = [run for row in rows for run in row.pooled.results]
    statuses: dict[str, int] = {}
    for result in results:
        statuses[result.status] = statuses.get(result.status, 0) + 1
    several = len(results) > 1
    ended = ", ".join(f"{number if several else ''} {in_words(status)}".strip() for status, number in statuses.items())
    days = sorted({result.started_at[:10] for result in results})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    runs = f"{len(results)} runs" if several else "1 run"
    settings = f" of {len(rows)} settings" if len(results) > len(rows) > 1 else ""
    return f"{runs}{settings}: {ended}. {when}."


def _details(sweeps: Sequence[Overview]) -> Details:
    """Return the details of all runs by row name, with the number of the repeat, and the sweep if there are several."""
    runs = [(run, row, seen) for seen in sweeps for row in seen.rows for run in row.pooled.results]
    names = [
        row.name
        + (f", repeat {run.settings['repeat']}" if len(row.pooled.results) > 1 else "")
        + (f" ({seen.title})" if len(sweeps) > 1 else "")
        for run, row, seen in runs
    ]
    return details([run for run, _, _ in runs], names)
