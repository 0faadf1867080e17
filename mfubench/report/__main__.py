"""`python -m mfubench.report DIR...`: every result in or below the folders, as a table, CSV, JSON, Markdown or one HTML file.

Exit status: 0 every run is ok; 3 some run is not, or a file could not be read; 2 there is no result. `--against OLD_DIR`
adds what became of each setting since: 3 something is slower or no longer ok (with `--strict`: or missing), or a file could
not be read; 2 no setting is on both sides; else 0. 1: the output can't be written.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mfubench.files.terminal import begin_command
from mfubench.files.whole import write_whole
from mfubench.report import to_csv, to_json, to_markdown
from mfubench.report.against import Change, changes, regressions
from mfubench.report.against import change_records as records_of_changes
from mfubench.report.against import section as section_of_changes
from mfubench.report.gather import Gathered, gather
from mfubench.report.table import show
from mfubench.result.flat import run_records

FORMATS = ("table", "csv", "json", "markdown", "html")
FOR_PROGRAMS = ("csv", "json")
FILE_WIDTH = 120  # columns of a table's prose where no terminal shows it


def main(argv: Sequence[str] | None = None) -> int:
    """Report what the arguments ask for; the exit status."""
    begin_command()
    given = _parser().parse_args(argv)
    found = _gathered(given.folders)
    if not found.results:
        return 2
    ok = not found.complaints and all(result.status == "ok" for result in found.results)
    compared: list[Change] | None = None
    if given.against is not None:
        old = _gathered([given.against])
        compared = changes(old.results, found.results, given.tolerance) if old.results else []
        if not any(change.old and change.new for change in compared):
            print(f"mfubench.report: no setting is in both {given.against} and the new results", file=sys.stderr)
            return 2
        ok = not (found.complaints or old.complaints or regressions(compared, given.strict))
    text = _report_text(found, compared, given)
    try:
        _put(text, given.output)
    except OSError as error:
        print(f"mfubench.report: can't write {given.output or 'standard output'}: {error.strerror}", file=sys.stderr)
        if given.output is None:  # or Python would try once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if given.output is not None:
        print(f"mfubench.report: written to {given.output}", file=sys.stderr)
    return 0 if ok else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mfubench.report", description="Compare the results below folders.")
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="a run's folder, or any folder above runs")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: standard output")
    parser.add_argument(
        "--against",
        metavar="OLD_DIR",
        type=Path,
        help="older results: say what is slower, no longer ok, missing or new, and exit with 3 for the first two",
    )
    parser.add_argument("--strict", action="store_true", help="with --against: exit with 3 for what is missing, too")
    parser.add_argument(
        "--tolerance",
        metavar="FRACTION",
        type=_fraction,
        default=0.02,
        help="how much slower is no matter; default: %(default)s",
    )
    return parser


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no fraction; 2 % are 0.02")
    return value


def _gathered(folders: Sequence[Path]) -> Gathered:
    """The results, after saying what was none."""
    found = gather(folders)
    for sentence in (*found.complaints, *found.copies):
        print(f"mfubench.report: {sentence}", file=sys.stderr)
    return found


def _report_text(found: Gathered, compared: Sequence[Change] | None, given: argparse.Namespace) -> str:
    """The report in the form that is asked for."""
    if given.format in FOR_PROGRAMS:
        rows = run_records(found.results) if compared is None else records_of_changes(compared)
        return to_csv.csv_text(rows) if given.format == "csv" else to_json.json_text(rows)
    from mfubench.report.published.tables import sections  # which needs the configuration's types

    parts = sections(found.results)
    if compared is not None:
        parts += (section_of_changes(compared, given.tolerance),)
    if given.format == "markdown":
        return to_markdown.markdown_text(found.results, parts)
    if given.format == "html":
        from mfubench.report.html import page  # plots, which no other form needs

        return page(found.results, [*found.complaints, *found.copies], parts)
    terminal, shown = Console(), io.StringIO()
    if given.output is None:
        console = Console(file=shown, width=terminal.width, force_terminal=terminal.is_terminal)
    else:
        console = Console(file=shown, width=FILE_WIDTH)
    show(found.results, console, parts)
    return shown.getvalue()


def _put(text: str, output: Path | None) -> None:
    """Print the report, or write it to a file whole, so that the old file stays if that fails. Raises OSError."""
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    output = output.resolve()
    if output.exists() and not output.is_file():  # a device; of a folder the error tells
        output.write_text(text, encoding="utf-8")
        return
    write_whole(output, text)


if __name__ == "__main__":
    sys.exit(main())
