"""An optimizer step's counts, as an Experiment asks for them. In: an Experiment. Out: its Profile, FlopCount, ClosedForm.

The shape is the one that is asked for, in every micro-batch; `documents` and `projected` are as in `shapes`, of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mfubench.config import Experiment
from mfubench.flops.cache import cached_profile
from mfubench.flops.closed_form import ClosedForm, closed_form
from mfubench.flops.shapes import FlopCount, Profile
from mfubench.paths import cache_folder


def profile_of(experiment: Experiment) -> Profile:
    """The FLOPs of a micro-batch of any shape, kept in the cache. Raises ValueError for what can't be counted."""
    return cached_profile(
        experiment.model.architecture,
        experiment.mode,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        folder=cache_folder() / "flops",
    )


def step_flops(
    experiment: Experiment, *, documents: Sequence[int] | None = None, projected: int | None = None
) -> FlopCount:
    """The FLOPs of one optimizer step on one device. Raises ValueError for what can't be counted, and for the shape."""
    of_any = profile_of(experiment)
    shape = (experiment.batch_size, experiment.sequence_length)
    of_any.check(*shape, documents=documents, projected=projected)
    micro_batch = of_any.of(*shape, documents=documents, projected=projected)
    return micro_batch.scaled(experiment.gradient_accumulation_steps)


def second_count(
    experiment: Experiment, *, documents: Sequence[int] | None = None, projected: int | None = None
) -> ClosedForm | None:
    """The same step by formulas, to hold against `step_flops`; None where `decoder.not_written_down` says why. Pure."""
    micro_batch = closed_form(
        experiment.model.architecture,
        experiment.mode,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        batch_size=experiment.batch_size,
        sequence_length=experiment.sequence_length,
        documents=documents,
        projected=projected,
    )
    return None if micro_batch is None else micro_batch.scaled(experiment.gradient_accumulation_steps)
