"""Estimate the memory of a run on the meta device, from architecture, mode and settings; no device is used.

Importing this imports neither torch nor transformers; estimating does.
"""

from __future__ import annotations

from mfubench.flops.memory.estimate import MemoryEstimate, estimate, fits

__all__ = ["MemoryEstimate", "estimate", "fits"]
