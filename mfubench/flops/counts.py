"""The FLOPs of a step as a result holds them: the trace's count, the analytic one, and their difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

AMOUNTS = ("model_flops", "model_flops_causal", "hardware_flops", "hardware_flops_causal")  # of a FlopCount


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one micro-batch's forward and backward pass (or of one step, when scaled) on one device.

    A Profile's count knows all of them; a step counted in its own process may leave some unknown: None.
    """

    model_flops: int | None  # PaLM: no recomputation, full square of a document, attention's backward 2x its forward
    model_flops_causal: int | None  # the same with causal attention counted exactly, s(s+1)/2
    hardware_flops: int | None  # PyTorch's counter: with recomputation, full square, fused backward 2.5x, eager 2x
    hardware_flops_causal: int | None  # the same without the masked half, if the kernel skips it
    parameters: int  # of the model as trained, LoRA's included; tied ones once
    trainable_parameters: int
    uncounted: Mapping[str, int]  # matrix operators without a formula -> calls

    @property
    def flops(self) -> dict[str, Any]:
        """The figures of AMOUNTS by name."""
        return {name: getattr(self, name) for name in AMOUNTS}

    def scaled(self, micro_batches: int) -> FlopCount:
        """The count of `micro_batches` such micro-batches: FLOPs and calls times as many, parameters the same."""
        flops: dict[str, Any] = {name: n and n * micro_batches for name, n in self.flops.items()}
        return replace(self, **flops, uncounted={name: n * micro_batches for name, n in self.uncounted.items()})


@dataclass(frozen=True)
class AnalyticCount:
    """FLOPs of one micro-batch's forward and backward pass on one device, and parameters; fields as in FlopCount."""

    model_flops: int
    model_flops_causal: int
    hardware_flops: int
    hardware_flops_causal: int
    parameters: int
    trainable_parameters: int

    def scaled(self, micro_batches: int) -> AnalyticCount:
        """The count of `micro_batches` such micro-batches: FLOPs times as many, parameters the same."""
        flops = {name: n * micro_batches for name, n in asdict(self).items() if not name.endswith("parameters")}
        return replace(self, **flops)


@dataclass(frozen=True)
class SecondCount:
    """The analytic count of an optimizer step on one device, and its difference from the trace's count."""

    figures: AnalyticCount
    apart: float  # the largest difference of a figure, as a fraction
