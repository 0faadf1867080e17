"""What the probe wrote. In: a run's records folder. Out: Records, how far they are, where they differ from the plan."""

from __future__ import annotations

from mfubench.records.expected import Difference, Expected
from mfubench.records.invariants import differences
from mfubench.records.reading import Follower, MicroBatch, RankProgress, RankRecord, Records, StepFlops, read_records

__all__ = [
    "Difference",
    "Expected",
    "Follower",
    "MicroBatch",
    "RankProgress",
    "RankRecord",
    "Records",
    "StepFlops",
    "differences",
    "read_records",
]
