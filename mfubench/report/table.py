"""Print results in a terminal: a row per setting, under a header of what all share."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfubench.measure.metric_table import COLUMNS, percent
from mfubench.report.overview import Overview, Row, Section, overview
from mfubench.result.result_file import Result

UNBOUNDED = 1000  # columns


def show(results: Sequence[Result], console: Console, sections: Sequence[Section] = ()) -> None:
    """Print the table of the results: what they share above it; ratios, reasons, warnings, the legend, sections below."""
    seen = overview(results)
    _print_line(" · ".join(f"{key} {value}" for key, value in seen.shared.items()), console)
    for device in seen.devices:
        _print_line(device, console)
    console.print()
    _unfolded(_one(seen.rows[0]) if len(seen.rows) == 1 else _many(seen), console)
    console.print()
    for ratio in seen.ratios:
        _print_line(ratio.text, console)
        if ratio.differences:
            _print_line(f"  {ratio.differences}", console, "dim")
    if seen.note:
        _print_line(seen.note, console, "dim")
    for remark in seen.remarks:
        _print_line(f"{'; '.join(remark.about)}: {remark.text}", console, "red" if remark.failure else "yellow")
    if seen.legend:
        _print_line(seen.legend, console, "dim")
    for section in sections:
        show_section(section, console)


def show_section(section: Section, console: Console) -> None:
    """Print a part of a report beside its main table."""
    console.print()
    _print_line(section.title, console, "bold")
    for paragraph in section.paragraphs:
        _print_line(paragraph, console)
    if section.headers:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for header in section.headers:
            table.add_column(Text(header), no_wrap=True)
        for row in section.rows:
            table.add_row(*map(Text, row))
        console.print()
        _unfolded(table, console)


def _print_line(text: str, console: Console, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False)


def _unfolded(table: Table, console: Console) -> None:
    """Folded or cut rows are harder to read than long ones."""
    width = console.width
    console.width = max(width, console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum)
    console.print(table)
    console.width = width


def _many(seen: Overview) -> Table:
    """A row per setting: what differs, how its runs ended, the figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    status = len(seen.varying)
    for column, name in enumerate(seen.columns):
        metric = COLUMNS.get(name) if column > status else None
        heading = Text(metric.two_lines if metric else f"\n{name}")
        table.add_column(heading, justify="right" if column > status else "left", no_wrap=True)
    for row in seen.rows:
        cells = [Text(cell, _style(row) if column == status else "") for column, cell in enumerate(seen.cells(row))]
        table.add_row(*cells)
    return table


def _one(row: Row) -> Table:
    """A row per figure."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("status", Text(row.pooled.status, _style(row)))
    if len(row.pooled.results) > 1:
        table.add_row("n", str(len(row.pooled.ok)))
    for name, cell in {**row.figures, **_in_situ(row)}.items():
        table.add_row(name, Text(cell))
    return table


def _in_situ(row: Row) -> dict[str, str]:
    """Describe the count made in the framework's own process; empty if there was none."""
    for result in row.pooled.ok:
        counted = result.in_situ
        if counted and counted.flops is not None and counted.apart is not None:
            seen, expected = counted.flops / 1e12, counted.expected_flops / 1e12
            return {"in situ": f"{seen:.4g} TFLOP in a step, {percent(counted.apart, sign='+')} from {expected:.4g}"}
    return {}


def _style(row: Row) -> str:
    """Return the colour of a row's status."""
    return "green" if row.pooled.status == "ok" else "yellow" if row.pooled.ok else "red"
