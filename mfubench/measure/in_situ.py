"""Compare the step counted inside the framework's process with the FLOPs counted for its micro-batches; explain a difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from mfubench.config import Experiment, GradientCheckpointing
from mfubench.config.vocabulary import RECOMPUTATIONS
from mfubench.flops.profile import Profile
from mfubench.flops.recurrence import STATE
from mfubench.flops.step import profile_of
from mfubench.measure.figures import InSitu
from mfubench.records.reading import MicroBatch, Records

MAX_RELATIVE_DIFFERENCE = 0.01  # above, the framework did something else than what was counted
MATCH_TOLERANCE = 0.001
IN_CHUNKS = "recurrences are counted by their states, whatever chunks a library multiplies those in"


def in_situ(records: Records, experiment: Experiment | None) -> InSitu | None:
    """Compare the counted step with the count of the same micro-batches; None if a rank counted no step.

    `experiment`: None if its own count is this step's.
    """
    steps = [rank.step_flops for rank in records.ranks if rank.step_flops is not None]
    if not steps or len(steps) < len(records.ranks):
        return None
    ranks = len(steps)
    batches = [batch for step in steps for batch in step.micro_batches]
    expected = None if experiment is None else _hardware_flops(profile_of(experiment), batches)
    counted = [step.flops for step in steps if step.flops is not None]
    seen = sum(counted) if len(counted) == ranks else None
    causes: list[str] = []
    apart = None if seen is None or expected is None else (seen - expected) / expected
    if experiment and seen is not None and apart is not None and abs(apart) > MAX_RELATIVE_DIFFERENCE:
        recorded = [rank.work.get("recomputation") for rank in records.ranks]
        kinds = RECOMPUTATIONS if None in recorded else tuple(kind for kind in RECOMPUTATIONS if kind in recorded)
        states = any(f"/{STATE}/" in key for key in profile_of(experiment).executed_products)
        causes = min(_explanations(seen, batches, experiment, kinds), key=len, default=[IN_CHUNKS] * states)
    return InSitu(
        flops=None if seen is None else seen / ranks,
        expected_flops=None if expected is None else expected / ranks,
        apart=apart,
        by_operator=_mean_by_name([step.by_operator for step in steps]),
        uncounted=_mean_by_name([step.uncounted for step in steps]),
        explanation=" and ".join(causes) or None,
    )


def _explanations(
    seen: int, batches: Sequence[MicroBatch], experiment: Experiment, kinds: Sequence[str]
) -> Iterator[list[str]]:
    """Yield the sets of causes that together would make the FLOPs that were counted; `kinds`: possible recomputation.

    Sizes are round, so that a wrong cause can match: the caller takes the fewest causes, and an arbitrary number of lm_head
    positions is a cause only if nothing else changed.
    """
    asked = experiment.gradient_checkpointing.name
    for kind, (kernel, changes) in product(dict.fromkeys((asked, *kinds)), _kernels(experiment.attention).items()):
        recomputing = replace(experiment, gradient_checkpointing=GradientCheckpointing(kind))
        would_do = replace(profile_of(recomputing), **changes)
        expected = _hardware_flops(would_do, batches)
        changed = [f"it recomputes as gradient_checkpointing={kind}"] * (kind != asked) + [kernel] * bool(kernel)
        if abs(seen - expected) <= MATCH_TOLERANCE * expected:
            yield changed
        for causes in _through_lm_head(seen - expected, batches, would_do, any_number=not changed):
            yield [*changed, *causes]


def _through_lm_head(
    more: int, batches: Sequence[MicroBatch], profile: Profile, *, any_number: bool
) -> Iterator[list[str]]:
    """Yield the lm_head positions, computed once or twice, that would make exactly `more` FLOPs than every position once."""
    positions = sum(batch.batch_size * batch.sequence_length for batch in batches)
    labelled = sum(batch.trained_tokens or 0 for batch in batches)
    sequences = sum(batch.batch_size for batch in batches)
    known = {
        labelled: ", those with a label",
        labelled - sequences: ", those whose next one has a label",
        positions - sequences: ", those that have a next one",
        positions: "",
    }
    of_one = profile.of(1, 2).flops["hardware_flops"] - profile.of(1, 2, trained_tokens=1).flops["hardware_flops"]
    for again, causes in (
        (0, []),
        (profile.forward_of_head, ["lm_head's logits were computed again in the backward pass"]),
    ):
        computed, rest = divmod(more + positions * of_one, of_one + again) if of_one else (0, 1)
        if rest or not 0 < computed <= positions or (computed not in known and not (any_number and not again)):
            continue
        fewer = f"it is as if lm_head was computed for {computed} of {positions} positions{known.get(computed, '')}"
        found = causes + [fewer] * (computed < positions)
        if found:
            yield found


def _kernels(asked: str) -> dict[str, dict[str, Any]]:
    """The attention asked for, then others: a sentence -> the fields of the profile that it changes."""
    fused = {"attention ran in a fused kernel": {"attention": "sdpa"}}
    separate = {"attention ran as separate products (eager, or SDPA's math kernel)": {"attention": "eager"}}
    unseen = {"attention ran in a kernel that can't be seen": {"executed_attention": ()}}
    return {"": {}} | (fused if asked == "eager" else separate) | unseen


def _hardware_flops(profile: Profile, batches: Sequence[MicroBatch]) -> int:
    return sum(profile.of(batch.batch_size, batch.sequence_length).flops["hardware_flops"] for batch in batches)


def _mean_by_name(of_ranks: Sequence[Mapping[str, int]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for each in of_ranks:
        total.update(each)
    return {name: amount / len(of_ranks) for name, amount in total.most_common()}
