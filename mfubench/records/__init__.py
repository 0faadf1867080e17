"""Read the probe's records of a run, follow their progress, and compare them with the expected work."""

from __future__ import annotations

from mfubench.records.expected import Difference, Expected
from mfubench.records.invariants import differences
from mfubench.records.loss import finite, first_loss, last_loss
from mfubench.records.reading import Follower, MicroBatch, RankRecord, Records, StepFlops, read_records

__all__ = [
    "Difference",
    "Expected",
    "Follower",
    "MicroBatch",
    "RankRecord",
    "Records",
    "StepFlops",
    "differences",
    "finite",
    "first_loss",
    "last_loss",
    "read_records",
]
