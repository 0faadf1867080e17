"""`python -m mfubench.reference [DIR]`: checks reference results, such as those handed in in a folder DIR.

Without DIR: all of outputs/reference/, and whether the README's tables are those of the results; `--readme` writes them.
Exit status: 0 nothing is wrong, 1 something is, or there is nothing in DIR.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mfubench.files.paths import ROOT
from mfubench.report.reference.readme import with_tables
from mfubench.report.reference.submission import Submission, submissions

REFERENCE_FOLDER = ROOT / "outputs" / "reference"
README = ROOT / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Check, and say what is wrong; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mfubench.reference", description="Check reference results.")
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, help="<hardware>/<study>, or above; default: all"
    )
    parser.add_argument("--readme", action="store_true", help="write the tables of all results into the README")
    given = parser.parse_args(argv)
    if given.folder is not None and given.readme:
        parser.error("the README's tables are of all results; give no DIR")
    found = list(submissions((given.folder or REFERENCE_FOLDER).resolve()))
    wrong = [problem for each in found for problem in each.problems]
    if given.folder is not None and not found:
        wrong.append(f"{given.folder}: no command.txt and no result.json in or below it")
    if given.folder is None and not wrong:
        wrong += _readme(found, write=given.readme)
    for problem in wrong:
        print(f"mfubench.reference: {problem}", file=sys.stderr)
    for each in found:
        print(f"{each.name}: {len(each.results)} result(s), {len(each.problems)} problem(s)")
    return 1 if wrong else 0


def _readme(found: Sequence[Submission], *, write: bool) -> list[str]:
    """Compare the README's tables with the results, after writing them if `write`; return the problems."""
    text = README.read_text(encoding="utf-8")
    try:
        right = with_tables(text, found)
    except ValueError as error:
        return [str(error)]
    if write:
        README.write_text(right, encoding="utf-8")
    elif text != right:
        return [
            "the README's tables are not those of outputs/reference/; python -m mfubench.reference --readme writes them"
        ]
    return []
