"""The count that the probe made of one step in its own process, as FLOPs of a micro-batch of that shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mfubench.flops.counts import FlopCount
from mfubench.records.reading import Records


def count_in_process(records: Records, recomputation: str | None) -> Mapping[tuple[int, int], FlopCount]:
    """Return the count by [batch, sequence], of the one shape that all micro-batches of the counted step had.

    Without recomputation everything executed was needed, so that the model's FLOPs are known, too: by convention those of
    attention are 3 times its forward pass, and a fused kernel's backward pass does more. Causal FLOPs can't be told from
    operators. Empty if a rank counted no step, hid operators, or had micro-batches of several shapes.
    """
    steps = [rank.step_flops for rank in records.ranks]
    batches = [batch for step in steps if step is not None for batch in step.micro_batches]
    shapes = {(batch.batch_size, batch.sequence_length) for batch in batches}
    if len(shapes) != 1 or any(step is None or step.flops is None or step.uncounted for step in steps):
        return {}
    by_operator = sum((Counter(step.by_operator) for step in steps if step is not None), Counter[str]())
    work, each = records.ranks[0].work, len(batches)
    needed = _needed(by_operator) // each if recomputation == "none" else None
    executed = by_operator.total() // each
    return {shapes.pop(): FlopCount(needed, None, executed, None, work["parameters"], work["trainable_parameters"], {})}


def _needed(by_operator: Counter[str]) -> int:
    from mfubench.probe.formulas import BACKWARD_NAMES, is_attention  # it imports torch

    attention = {name: flops for name, flops in by_operator.items() if is_attention(name)}
    forward = sum(flops for name, flops in attention.items() if not BACKWARD_NAMES.search(name))
    return by_operator.total() - sum(attention.values()) + 3 * forward
