"""Where the time of a rank's steps went, as far as it shows from outside. In: a RankRecord. Out: Parts. Pure.

Forward and backward passes end, and the optimizer's part begins, where the first optimizer event of a step starts:
- What is between them belongs to the first part: reducing gradients, clipping them, waiting for the other ranks.
- ZeRO gathers what it has updated after its optimizers' events: in the second part.
- An optimizer that steps in the backward pass starts with the first gradient that is complete, so that most of the
  backward pass is in the second part.
- On a device its own clock tells these two parts, so they are what it did and not what was queued. What a device does on
  other streams, such as copying the next batch, is in the part it delays.

Data wait overlaps either part:
- It is the time the training thread was in DataLoaders, by the host's clock. What workers load in advance is in it only as
  far as it was waited for; and while a device is still busy with what was queued, waiting costs nothing.
- A loader that loads a batch ahead has it in the step before the one that uses it.
- Data that comes another way (Ray Data, a framework's own iterators, another thread) is not seen; nor is the start of
  workers in a new epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mfubench.records import RankRecord


@dataclass(frozen=True)
class StepBreakdown:
    """Means per step, in s; None where not known. The two that are named after their ends add up to the step time."""

    data_wait_s: float | None
    forward_to_optimizer_s: float | None  # first training forward -> start of the first optimizer event
    optimizer_to_forward_s: float | None  # from there to the next step's first training forward
    probe_s: float | None  # the probe's own, wherever it was


def step_breakdown(rank: RankRecord, first: int, steps: int) -> StepBreakdown:
    """Of the periods [first, first + steps) of this rank, which must have them."""
    window = slice(first, first + steps)
    times = rank.step_times_s[window]
    assert len(times) == steps > 0, (first, steps, len(rank.step_times_s))
    to_optimizer = _mean_if_known(rank.to_optimizer_s[window])
    return StepBreakdown(
        data_wait_s=_mean_if_known(rank.data_waits_s[window]),
        forward_to_optimizer_s=to_optimizer,
        optimizer_to_forward_s=None if to_optimizer is None else fmean(times) - to_optimizer,
        probe_s=_mean_if_known(rank.probe_times_s[window]),
    )


def _mean_if_known(times: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [time for time in times if time is not None]
    return fmean(known) if known and len(known) == len(times) else None
