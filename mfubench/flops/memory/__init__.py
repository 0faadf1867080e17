"""The memory that a run is expected to need. In: architecture, mode and settings. Out: an ExpectedMemory; no device is used.

Importing this imports neither torch nor transformers; expecting does.
"""

from __future__ import annotations

from mfubench.flops.memory.estimate import ExpectedMemory, expected, fits

__all__ = ["ExpectedMemory", "expected", "fits"]
