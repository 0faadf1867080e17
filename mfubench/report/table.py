"""Print results in a terminal: a row per setting, under a header of what all share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from mfubench.explain.categories import CATEGORIES
from mfubench.measure.metric_table import COLUMNS, WORDS, percent, seconds
from mfubench.report.overview import Overview, Row, legend, overviews
from mfubench.report.scaling import scaling_section
from mfubench.report.section import Section
from mfubench.result.result_file import Result

GAP = 2  # between columns
NAME = 0.28  # of the console's width, at most, for a row's name on one line, if a table is split

BAR = 72  # columns at most, of the longest step
SHADES = "█▓"  # of neighbours in a bar, so that they are told apart without colour
IDLE = "░"
BRIGHT = ("bright_blue", "bright_cyan", "bright_magenta", "bright_green", "default", "bright_black")
COLOURS = dict(zip(CATEGORIES, ("blue", "cyan", "green", "yellow", "magenta", "red", *BRIGHT), strict=True))


def show(results: Sequence[Result], console: Console, sections: Sequence[Section] = ()) -> None:
    """Print the results of each sweep, the newest first; below all of them what the columns mean, and sections."""
    sweeps = overviews(results)
    for seen in sweeps:
        if len(sweeps) > 1:
            _print_line(seen.title, console, "bold")
        _show_sweep(seen, console)
        if seen.ratios or seen.remarks or seen.scalings:
            console.print()
    for line in legend(sweeps):
        _print_line(line, console, "dim")
    for section in sections:
        show_section(section, console)


def _show_sweep(seen: Overview, console: Console) -> None:
    """Print a sweep's table: what all rows share above it; ratios, reasons and warnings below."""
    _print_line(" · ".join(f"{key} {value}" for key, value in seen.shared.items()), console)
    for device in seen.devices:
        _print_line(device, console)
    console.print()
    several = len(seen.rows) > 1
    for table in _many(seen, console.width) if several else [_one(seen.rows[0])]:
        console.print(table)
        console.print()
    _show_step_times(seen.rows, console)
    for title, ratios in seen.ratios.items():
        _print_line(f"{title}:", console)
        for ratio in ratios:
            _print_line(f"  {ratio.text}", console)
            if ratio.differences:
                _print_line(f"    {ratio.differences}", console, "dim")
            if ratio.difference:
                _print_line(f"    {ratio.difference}", console)
    if seen.note:
        _print_line(seen.note, console, "dim")
    for remark in seen.remarks:
        style, cut = ("red", False) if remark.failure else ("yellow", several)
        _print_line(f"{remark.about}: {remark.text}", console, style, cut)
    if seen.scalings:
        show_section(scaling_section(seen.scalings), console)


def _show_step_times(rows: Sequence[Row], console: Console) -> None:
    """Print where the step time of each row goes: a line, and under it a bar in the same colours, all bars on one scale."""
    found = [(row.name, row.explained) for row in rows if row.explained]
    room = min(console.width, BAR) / max((each.time.seconds for _, each in found), default=1)
    if found:
        _print_line("where a step's time goes (docs/why.md):", console)
    for name, each in found:
        words, bar, end = [], Text(), 0.0
        for category, share in each.shares.items():
            colour, begin = COLOURS.get(category, "default"), end
            end += share * each.time.seconds * room
            words.append(Text(f"{category} {share:.0%}", colour))
            shade = IDLE if category == "idle" else SHADES[len(bar.spans) % 2]
            bar.append(shade * (round(end) - round(begin)), colour)
        line = Text.assemble(f"{name}, {seconds(each.time.seconds)}: ", Text(", ").join(words), each.stretch)
        console.print(line, bar, sep="\n")
    if found:
        console.print()


def show_section(section: Section, console: Console) -> None:
    """Print a part of a report beside its main table."""
    console.print()
    _print_line(section.title, console, "bold")
    for paragraph in section.paragraphs:
        _print_line(paragraph, console)
    if section.headers:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for header in section.headers:
            table.add_column(Text(header))
        for row in section.rows:
            table.add_row(*map(Text, row))
        console.print()
        console.print(table)


def _print_line(text: str, console: Console, style: str | None = None, cut: bool = False) -> None:
    console.print(text, style=style, markup=False, highlight=False, no_wrap=cut, overflow="ellipsis" if cut else None)


def _many(seen: Overview, width: int) -> Iterator[Table]:
    """A row per setting, in one table if that fits into the width; else the figures and the settings apart."""
    headers = [COLUMNS[name].two_lines.strip() if name in seen.headings else name for name in seen.columns]
    rows = [seen.cells(row) for row in seen.rows]
    widths = [max(map(cell_len, [*headers[i].split("\n"), *(row[i] for row in rows)])) for i in range(len(headers))]
    fits, room = sum(widths) + GAP * (len(widths) - 1) <= width, width - min(widths[0], int(NAME * width))
    parts: list[list[int]] = [[1]]
    for i in range(2, len(headers)):
        if not fits and (i == seen.numbers.stop or sum(widths[j] + GAP for j in (*parts[-1], i)) > room):
            parts.append([])
        parts[-1].append(i)
    for part in parts:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(Text(headers[0]), vertical="bottom", overflow="fold")
        for i in part:
            justify: JustifyMethod = "right" if i in seen.numbers else "left"
            table.add_column(Text(headers[i]), justify=justify, vertical="bottom", no_wrap=True)
        for row, cells in zip(seen.rows, rows, strict=True):
            table.add_row(Text(cells[0]), *(Text(cells[i], _style(row) if i == 1 else "") for i in part))
        yield table


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
        if counted and counted.flops is not None and counted.expected_flops is not None and counted.apart is not None:
            seen, expected = (WORDS["TFLOP"](flops / 1e12) for flops in (counted.flops, counted.expected_flops))
            return {"in situ": f"{seen} in a step, {percent(counted.apart, sign='+')} from {expected}"}
    return {}


def _style(row: Row) -> str:
    """Return the colour of a row's status."""
    return "green" if row.pooled.status == "ok" else "yellow" if row.pooled.ok else "red"
