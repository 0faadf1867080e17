"""A part of a report beside its main table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A title, paragraphs of plain text (nothing in them is markup), and a table under them.

    Every row has a cell per header; no headers: no table.
    """

    title: str
    paragraphs: Sequence[str] = ()
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
