"""FLOPs as a function of a micro-batch's shape: a Profile, made from a model's trace, gives a FlopCount. Pure.

Plain products are proportional to the positions; attention is worked out from its calls and the lengths of the documents.
Model FLOPs are those needed by training, so they come from a trace without recomputation; hardware FLOPs are those
executed, so they come from a trace with the run's checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mfubench.flops.attention import AttentionCall, kernel_flops, model_flops
from mfubench.flops.counts import FlopCount

LM_HEAD_GROUPS = ("lm_head", "LoRA of lm_head")  # only positions whose logits are needed pass these
Calls = tuple[tuple[AttentionCall, int], ...]  # distinct calls, each with its number of occurrences


@dataclass(frozen=True)
class Profile:
    """The work of a model in a micro-batch, trained in one mode with one attention kernel and one kind of recomputation.

    A shape is `batch_size` sequences of `sequence_length` positions each. `documents`: the documents' lengths, if every
    sequence is packed with several. `trained_tokens`: the micro-batch's positions that pass lm_head, if not all do: a loss
    may leave out skipped tokens.
    """

    attention: str  # the kernel: sdpa | flash_attention_2 | eager
    needed_products: Mapping[str, int]  # FLOPs per position without recomputation, by "phase/operator/module group"
    executed_products: Mapping[str, int]  # the same with recomputation
    needed_attention: Calls
    executed_attention: Calls
    parameters: int
    trainable_parameters: int
    uncounted: Mapping[str, int]  # per micro-batch of any shape
    positions: int | None  # most positions in a sequence; None: no limit
    sizes: Mapping[str, int]  # those of `conventions.ARCHITECTURE_QUANTITIES` that the architecture has

    @property
    def forward_of_head(self) -> int:
        """FLOPs per position of lm_head's forward pass."""
        return sum(n for key, n in self.executed_products.items() if key.startswith("forward/") and _of_head(key))

    def check(
        self,
        batch_size: int,
        sequence_length: int,
        *,
        documents: Sequence[int] | None = None,
        trained_tokens: int | None = None,
    ) -> None:
        """Raise ValueError for an impossible shape, and for more positions than the model has."""
        for setting, size in (("batch_size", batch_size), ("sequence_length", sequence_length)):
            if size < 1:
                raise ValueError(f"{setting}={size} must be at least 1")
        check_positions(self.positions, sequence_length)
        if documents is not None and (sum(documents) != sequence_length or min(documents) < 1):
            raise ValueError(
                f"documents of {', '.join(map(str, documents))} tokens are {sum(documents)} together; give lengths of at "
                f"least 1 that fill a sequence, sequence_length={sequence_length}"
            )
        positions = batch_size * sequence_length
        if trained_tokens is not None and not 1 <= trained_tokens <= positions:
            raise ValueError(
                f"{trained_tokens} trained tokens in a micro-batch of {batch_size} x {sequence_length} tokens; "
                f"give 1 to {positions}"
            )
        if trained_tokens is not None and not any(map(_of_head, self.needed_products)):
            raise ValueError("this model has no lm_head by that name to count trained tokens for; leave them out")

    def of(
        self,
        batch_size: int,
        sequence_length: int,
        *,
        documents: Sequence[int] | None = None,
        trained_tokens: int | None = None,
    ) -> FlopCount:
        """The count of one micro-batch of [batch_size, sequence_length] positions; by default all pass lm_head."""
        lengths = (sequence_length,) if documents is None else documents
        positions = batch_size * sequence_length
        needed = sum(product_flops(self.needed_products, positions, trained_tokens).values())
        executed = sum(product_flops(self.executed_products, positions, trained_tokens).values())

        def model(causal: bool) -> int:
            calls = self.needed_attention
            return needed + sum(n * model_flops(call, batch_size, lengths, causal=causal) for call, n in calls)

        def hardware(skip_masked: bool) -> int:
            kernel = partial(kernel_flops, kernel=self.attention, skip_masked=skip_masked)
            return executed + sum(n * kernel(call, batch_size, lengths) for call, n in self.executed_attention)

        return FlopCount(
            model_flops=model(causal=False),
            model_flops_causal=model(causal=True),
            hardware_flops=hardware(skip_masked=False),
            hardware_flops_causal=hardware(skip_masked=True),
            parameters=self.parameters,
            trainable_parameters=self.trainable_parameters,
            uncounted=self.uncounted,
        )


def product_flops(per_position: Mapping[str, int], positions: int, trained_tokens: int | None) -> dict[str, int]:
    """FLOPs of plain products by key, "…/module group"; in lm_head's groups only `trained_tokens` positions count."""
    of_head = positions if trained_tokens is None else trained_tokens
    return {key: flops * (of_head if _of_head(key) else positions) for key, flops in per_position.items()}


def _of_head(key: str) -> bool:
    return key.rpartition("/")[2] in LM_HEAD_GROUPS


def check_positions(positions: int | None, sequence_length: int) -> None:
    """Raise ValueError for a sequence longer than `positions`, if that isn't None."""
    if positions is not None and sequence_length > positions:
        raise ValueError(
            f"sequence_length={sequence_length} is beyond the {positions} positions of this model; give at most "
            f"sequence_length={positions}, or raise model.architecture.max_position_embeddings"
        )
