"""Results to files and back, and what people read of them."""

from __future__ import annotations

from mfubench.report.result import SCHEMA_VERSION, Result, UnreadableResult, find, read, write

__all__ = ["SCHEMA_VERSION", "Result", "UnreadableResult", "find", "read", "write"]
