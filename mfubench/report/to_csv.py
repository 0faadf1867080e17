"""Write flat records as CSV: a header and a line for each record, with empty cells for missing values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from mfubench.result.flat import Scalar

FORMULAS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
)  # a spreadsheet would evaluate what begins so: a result may be somebody else's


def csv_text(records: Sequence[Mapping[str, Scalar]]) -> str:
    """The records, which have the same keys, as CSV; text that a spreadsheet would take for a formula has a ' before it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_cell, records[0]))
    writer.writerows(map(_cell, record.values()) for record in records)
    return file.getvalue()


def _cell(value: Scalar) -> Scalar:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
