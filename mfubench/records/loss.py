"""Bring the scalars on which a framework calls backward() to a mean loss per target, the same for every framework. Pure.

A target is a trained token that a position predicts: not the first of its sequence. A framework's YAML says what its scalar
is (`loss`), with N for all micro-batches of a step on all ranks and R for the number of ranks:

| word | the scalars of a step on a rank add up to | the mean per target |
|---|---|---|
| mean | a mean per target, or R x the rank's sum / targets of N | mean over ranks |
| mean_of_unshifted | the same, over trained tokens instead of targets | mean over ranks x trained tokens of N / targets of N |
| token_sum | mean per target x the rank's trained tokens | sum over ranks / trained tokens of N |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mfubench.config.vocabulary import LOSSES
from mfubench.records.reading import MicroBatch, Records


def loss_per_target(
    word: str, scalars: Sequence[Sequence[float | None] | None], batches: Sequence[MicroBatch]
) -> float | None:
    """Return the mean loss per target of one step; None if a scalar or a count that it needs isn't known.

    Args:
        word: `framework.loss`; any other word: not known.
        scalars: of each rank, of each of its micro-batches.
        batches: of all ranks together.
    """
    if word not in LOSSES or not scalars or not all(scalars):
        return None
    each = [scalar for rank in scalars for scalar in rank or ()]
    known = [scalar for scalar in each if scalar is not None]
    if len(known) < len(each):
        return None
    if word == "mean":
        return sum(known) / len(scalars)
    trained, targets = (_sum([getattr(batch, name) for batch in batches]) for name in ("trained_tokens", "targets"))
    if word == "token_sum":
        return sum(known) / trained if trained else None
    return sum(known) / len(scalars) * trained / targets if trained and targets else None


def first_loss(word: str, records: Records) -> float | None:
    """Return the mean loss per target of the first step; None: not known."""
    return _of_step(word, records, 0)


def last_loss(word: str, records: Records, periods: int) -> float | None:
    """Return that of the last of the first `periods` steps; on a device, that of the last step before training ended."""
    last = min((len(rank.losses) for rank in records.ranks), default=0) - 1
    found = (_of_step(word, records, step) for step in (periods - 1, last) if step > 0)
    return next((loss for loss in found if loss is not None), None)


def finite(loss: float | None) -> float | None:
    """Return the loss, or None for an infinite one and for no number: result.json can't hold them."""
    return loss if loss is not None and math.isfinite(loss) else None


def _of_step(word: str, records: Records, step: int) -> float | None:
    scalars = [dict(enumerate(rank.losses)).get(step) for rank in records.ranks]
    batches = [batch for rank in records.ranks for batch in next(iter(rank.micro_batches[step : step + 1]), ())]
    return loss_per_target(word, scalars, batches)


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
