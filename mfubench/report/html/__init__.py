"""Results as one self-contained HTML page: tables, plots, and where every figure comes from."""

from __future__ import annotations

from mfubench.report.html.page import page

__all__ = ["page"]
