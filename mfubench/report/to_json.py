"""Flat records → JSON: a list with an object per record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from mfubench.result.flat import Scalar


def json_text(records: Sequence[Mapping[str, Scalar]]) -> str:
    """The records as JSON."""
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"
