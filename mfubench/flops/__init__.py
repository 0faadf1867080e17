"""FLOPs on the meta device. In: architecture, mode and a micro-batch's shape. Out: a FlopCount, operators unknown listed.

Importing this imports neither torch nor transformers; counting does.
"""

from __future__ import annotations

from mfubench.flops.cache import cached_count
from mfubench.flops.count import FlopCount, count

__all__ = ["FlopCount", "cached_count", "count"]
