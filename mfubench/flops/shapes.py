"""FLOPs as a function of a micro-batch's shape. In: what was found in a model's trace. Out: a FlopCount for any shape. Pure.

Plain products are proportional to the positions; attention is worked out from its calls. Model FLOPs are what training
needs, so they come from a trace without recomputation; hardware FLOPs are what is executed, so they come from a trace
with the checkpointing of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mfubench.flops.attention import AttentionCall, kernel_flops, model_flops

Calls = tuple[tuple[AttentionCall, int], ...]  # each different call, and how often it is made


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one micro-batch's forward and backward pass (or of one step, when scaled) on one device."""

    model_flops: int  # PaLM convention: no recomputation, full square, attention backward 2x forward
    model_flops_causal: int  # the same with causal attention counted exactly, s(s+1)/2
    hardware_flops: int  # PyTorch's counter: with recomputation, full square, fused attention backward 2.5x, eager 2x
    hardware_flops_causal: int  # the same without the masked half where the kernel skips it
    parameters: int  # of the model as trained, LoRA's among them; tied ones once
    trainable_parameters: int
    uncounted: Mapping[str, int]  # operators on matrices that have no formula -> calls

    def scaled(self, micro_batches: int) -> FlopCount:
        """The count of `micro_batches` such micro-batches: FLOPs and calls times as many, parameters the same."""
        return replace(
            self,
            model_flops=self.model_flops * micro_batches,
            model_flops_causal=self.model_flops_causal * micro_batches,
            hardware_flops=self.hardware_flops * micro_batches,
            hardware_flops_causal=self.hardware_flops_causal * micro_batches,
            uncounted={operator: calls * micro_batches for operator, calls in self.uncounted.items()},
        )


@dataclass(frozen=True)
class Profile:
    """What a model does in a micro-batch, trained in one mode with one attention kernel and one kind of recomputation."""

    attention: str  # the kernel: sdpa | flash_attention_2 | eager
    needed_per_position: int  # FLOPs of the plain products without recomputation
    executed_per_position: int  # the same with recomputation
    executed_products: Mapping[str, int]  # those by "phase/operator/module group"
    needed_attention: Calls
    executed_attention: Calls
    parameters: int
    trainable_parameters: int
    uncounted: Mapping[str, int]  # per micro-batch, whatever its shape
    positions: int | None  # the most that a sequence may have; None: any number
    sizes: Mapping[str, int]  # of the architecture, by the names in `conventions`; those that it has

    def check(self, batch_size: int, sequence_length: int) -> None:
        """Raise ValueError for a size below 1, and for more positions than the model has."""
        for setting, size in (("batch_size", batch_size), ("sequence_length", sequence_length)):
            if size < 1:
                raise ValueError(f"{setting}={size} must be at least 1")
        within(self.positions, sequence_length)

    def of(self, batch_size: int, sequence_length: int) -> FlopCount:
        """The count of one micro-batch of [batch_size, sequence_length] positions, every label valid."""
        shape = (batch_size, sequence_length)
        needed = self.needed_per_position * batch_size * sequence_length
        executed = self.executed_per_position * batch_size * sequence_length

        def model(causal: bool) -> int:
            return needed + sum(n * model_flops(call, *shape, causal=causal) for call, n in self.needed_attention)

        def hardware(skip_masked: bool) -> int:
            return executed + sum(
                n * kernel_flops(call, *shape, kernel=self.attention, skip_masked=skip_masked)
                for call, n in self.executed_attention
            )

        return FlopCount(
            model_flops=model(causal=False),
            model_flops_causal=model(causal=True),
            hardware_flops=hardware(skip_masked=False),
            hardware_flops_causal=hardware(skip_masked=True),
            parameters=self.parameters,
            trainable_parameters=self.trainable_parameters,
            uncounted=self.uncounted,
        )


def within(positions: int | None, sequence_length: int) -> None:
    """Raise ValueError for a sequence of more than so many positions, if they are limited."""
    if positions is not None and sequence_length > positions:
        raise ValueError(
            f"sequence_length={sequence_length} is beyond the {positions} positions of this model; give at most "
            f"sequence_length={positions}, or raise model.architecture.max_position_embeddings"
        )
