"""Break a rank's step time down into the parts that show from outside.

The second part begins at the first optimizer event of a step:
- The first part has forward and backward passes, reducing and clipping gradients, waiting for other ranks.
- ZeRO gathers the updated weights after its optimizers' events: in the second part.
- An optimizer that steps inside the backward pass starts with the first complete gradient: most of the backward pass is in
  the second part.
- On a device its own clock divides the parts: they are what it did, not what was queued. Work on other streams, such as
  copying the next batch, is in the part it delays.

Data wait, the training thread's time in DataLoaders by the host's clock, overlaps either part:
- Work that loader workers do in advance counts only as far as it was waited for, and waiting costs nothing while a device
  is still busy.
- A loader that prefetches a batch has it in the step before the one that uses it.
- Data that comes another way (Ray Data, a framework's own iterators, another thread) isn't seen, nor is the start of
  workers in a new epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mfubench.records.reading import RankRecord


@dataclass(frozen=True)
class StepBreakdown:
    """Mean times per step in s, None if unknown. The two parts named after their ends add up to the step time."""

    data_wait_s: float | None
    forward_to_optimizer_s: float | None  # first training forward -> start of the first optimizer event
    optimizer_to_forward_s: float | None  # from there to the next step's first training forward
    probe_s: float | None  # the probe's own, wherever it was


def step_breakdown(rank: RankRecord, first: int, steps: int) -> StepBreakdown:
    """Return the breakdown of the periods [first, first + steps) of this rank, which must have them."""
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
    """Return the mean, None if any of the times is unknown."""
    known = [time for time in times if time is not None]
    return fmean(known) if known and len(known) == len(times) else None
