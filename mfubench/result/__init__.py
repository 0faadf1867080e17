"""Build, write and read result.json, the only source of truth for everything downstream; find earlier results."""

from __future__ import annotations

from mfubench.result.result_file import (
    SCHEMA_VERSION,
    Result,
    UnreadableResult,
    find_results,
    read_result,
    write_result,
)

__all__ = ["SCHEMA_VERSION", "Result", "UnreadableResult", "find_results", "read_result", "write_result"]
