"""Results → a table in Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence

from mfubench.report.overview import Overview, legend, overviews
from mfubench.report.scaling import scaling_section
from mfubench.report.section import Section
from mfubench.result.result_file import Result

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&@])")  # @: would tell somebody of that name


def markdown_text(results: Sequence[Result], sections: Sequence[Section] = ()) -> str:
    """Return the report in Markdown: header, table, ratios, remarks, sections."""
    return "\n".join(_lines(results, sections)) + "\n"


def _lines(results: Sequence[Result], sections: Sequence[Section]) -> Iterator[str]:
    sweeps = overviews(results)
    for seen in sweeps:
        if len(sweeps) > 1:
            yield from (f"### {_escaped(seen.title)}", "")
        yield from (*_sweep(seen), "")
    yield _escaped(". ".join(legend(sweeps)))
    for section in sections:
        yield from ("", *_section(section))


def _sweep(seen: Overview) -> Iterator[str]:
    yield _escaped(" · ".join(f"{key} {value}" for key, value in seen.shared.items()))
    for device in seen.devices:
        yield from ("", _escaped(device))
    yield ""
    yield from _table(seen.columns, [seen.cells(row) for row in seen.rows], seen.numbers)
    yield ""
    for row in seen.rows:
        if row.explained:
            yield f"- {_escaped(row.name)}, {_escaped(row.explained.text)}"
    for title, ratios in seen.ratios.items():
        yield f"- {_escaped(title)}"
        for ratio in ratios:
            said = filter(None, (ratio.text, ratio.differences, ratio.difference))
            yield f"  - {_escaped('; '.join(said))}"
    if seen.note:
        yield f"- {_escaped(seen.note)}"
    for remark in seen.remarks:
        yield f"- {_escaped(remark.about)}: {_escaped(remark.text)}"
    if seen.scalings:
        yield from ("", *_section(scaling_section(seen.scalings)))


def _section(section: Section) -> Iterator[str]:
    yield f"### {_escaped(section.title)}"
    for paragraph in section.paragraphs:
        yield from ("", _escaped(paragraph))
    if section.headers:
        yield ""
        yield from _table(section.headers, section.rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Container[int] = ()) -> Iterator[str]:
    yield _row(headers)
    yield "|" + "|".join(" ---: " if column in numbers else " --- " for column in range(len(headers))) + "|"
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(markdown_text: str) -> str:
    """On one line, and nothing in it is markup."""
    return SPECIAL.sub(r"\\\1", " ".join(markdown_text.split()))
