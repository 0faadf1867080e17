"""FLOPs of one micro-batch under the four conventions. In: architecture, mode and shape. Out: a FlopCount.

Model FLOPs are what training needs, so they come from a trace without recomputation; hardware FLOPs are what is
executed, so they come from a trace with the checkpointing and the attention of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mfubench.config import Mode
from mfubench.config.validate import ATTENTIONS
from mfubench.flops.attention import fused_flops, model_flops
from mfubench.flops.isolation import isolated
from mfubench.flops.trace import Trace, trace
from mfubench.flops.twin import build, checkpoint, within_positions
from mfubench.workload.architecture import config_of

MODES = ("full", "lora")
RECOMPUTATIONS = ("none", "reentrant", "non_reentrant")


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


def count(
    architecture: Mapping[str, Any],
    mode: Mode,
    *,
    recomputation: str,
    attention: str,
    batch_size: int,
    sequence_length: int,
) -> FlopCount:
    """Count one micro-batch of [batch_size, sequence_length] positions, every label valid.

    `architecture`: transformers' config.json by its own keys. `recomputation`: none | reentrant | non_reentrant.
    `attention`: sdpa | eager | flash_attention_2. Dropout, norms and other elementwise work cost no FLOPs.
    Raises ValueError for what the model or the options can't be: see `architecture.config_of` and `twin.build`.
    """
    _check(mode, recomputation, attention, batch_size=batch_size, sequence_length=sequence_length)
    shape = {"batch_size": batch_size, "sequence_length": sequence_length}
    fused = attention != "eager"
    with isolated():
        config = config_of(architecture)
        within_positions(config, sequence_length)
        model = build(config, mode)
        needed = executed = trace(model, fused_attention=True, **shape)
        if recomputation != "none":
            checkpoint(model, recomputation)
        if recomputation != "none" or not fused:
            executed = trace(model, fused_attention=fused, **shape)
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return FlopCount(
        model_flops=_model_flops(needed, causal=False),
        model_flops_causal=_model_flops(needed, causal=True),
        hardware_flops=_hardware_flops(executed, attention, skip_masked=False),
        hardware_flops_causal=_hardware_flops(executed, attention, skip_masked=True),
        parameters=sum(size for size, _ in sizes),
        trainable_parameters=sum(size for size, trainable in sizes if trainable),
        uncounted=executed.uncounted,
    )


def _model_flops(needed: Trace, *, causal: bool) -> int:
    calls = needed.attention_calls.items()
    return needed.matmul_flops + sum(n * model_flops(call, causal=causal) for call, n in calls)


def _hardware_flops(executed: Trace, attention: str, *, skip_masked: bool) -> int:
    calls = executed.attention_calls.items()
    return executed.matmul_flops + sum(
        n * fused_flops(call, kernel=attention, skip_masked=skip_masked) for call, n in calls
    )


def _check(mode: Mode, recomputation: str, attention: str, *, batch_size: int, sequence_length: int) -> None:
    for setting, value, choices in (
        ("mode", mode.name, MODES),
        ("gradient_checkpointing", recomputation, RECOMPUTATIONS),
        ("attention", attention, ATTENTIONS),
    ):
        if value not in choices:
            raise ValueError(f"{setting}={value} can't be counted; choose one of {', '.join(choices)}")
    sizes = {"batch_size": batch_size, "sequence_length": sequence_length}
    if mode.name == "lora":
        sizes["mode.rank"] = mode.rank or 0
    for setting, size in sizes.items():
        if size < 1:
            raise ValueError(f"{setting}={size} must be at least 1")
