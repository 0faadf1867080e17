"""`python -m mfubench.report DIR...`: every result in or below the folders as one table.

Exit status: 0 every run is ok, 3 some run is not or could not be read, 2 there is no result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mfubench.report.result import UnreadableResult, find, read
from mfubench.report.table import show


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of the folders' results; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mfubench.report", description="Compare the results below folders.")
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="a run's folder, or any folder above runs")
    folders: list[Path] = parser.parse_args(argv).folders
    missing = [folder for folder in folders if not folder.exists()]
    if missing:
        print(f"mfubench.report: there is no {', '.join(map(str, missing))}", file=sys.stderr)
        return 2
    results, unreadable = [], False
    for path in find(folders):
        try:
            results.append(read(path))
        except UnreadableResult as error:
            print(f"mfubench.report: {error}", file=sys.stderr)
            unreadable = True
    if not results:
        where = ", ".join(map(str, folders))
        print(f"mfubench.report: no results below {where}; `python -m mfubench` makes one", file=sys.stderr)
        return 2
    show(results, Console())
    return 3 if unreadable or any(result.status != "ok" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
