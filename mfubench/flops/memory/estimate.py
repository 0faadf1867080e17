"""Estimate the memory of one device in bytes, by what holds it, from architecture, mode and settings as plain values.

Weights, gradients and optimizer states are formulas over counted parameters; everything else in the step is counted on
the meta device. Left out are the allocator's rounding and fragmentation, the CUDA context and the libraries' workspaces
(about 0.5 to 1 GB), NCCL's own buffers, and tensors saved by torch.compile or by Liger kernels other than the fused
loss. The figures of CUDA kernels have not been checked on CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfubench.config import Mode
from mfubench.config.vocabulary import OPTIMIZERS, PARALLELISMS, RESOLVED_PRECISIONS
from mfubench.flops.memory.activation_peak import peak_of_step
from mfubench.flops.memory.states import (
    communication_bytes,
    optimizer_bytes,
    packed_layers,
    parameter_sizes,
    unpack_at_every_use,
)
from mfubench.flops.meta_model import bare_model, checkpoint, isolated, positions, with_lora
from mfubench.flops.profile import check_positions
from mfubench.workload.architecture import config_of, in_one_line


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each device; the parts add up to the total.

    Activations are freed while gradients are allocated, so their peaks don't coincide. `activations` is the step's peak
    minus the other four: it can be less than all activations together.
    """

    weights: int  # as the device holds them, frozen ones included; DeepSpeed's masters belong to `optimizer`
    gradients: int  # of all trained parameters
    optimizer: int  # moments, and DeepSpeed's master weights
    communication: int  # buckets, and weights gathered from other devices
    activations: int  # and logits, recomputed blocks, autocast's copies of weights and other temporary tensors

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.weights + self.gradients + self.optimizer + self.communication + self.activations


def estimate(
    architecture: Mapping[str, Any],
    mode: Mode,
    *,
    precision: str,
    recomputation: str,
    attention: str,
    batch_size: int,
    sequence_length: int,
    optimizer: str,
    device: str = "cuda",
    gradient_accumulation_steps: int = 1,
    fused_linear_cross_entropy: bool = False,
    parallelism: str = "single",
    num_devices: int = 1,
    reduce_bucket_size: int = 500_000_000,
    overlap_comm: bool = True,
) -> MemoryEstimate:
    """Estimate the memory of a device that trains micro-batches of [batch_size, sequence_length] positions.

    `precision`: bf16 | bf16_pure | fp32. `recomputation`: none | reentrant | non_reentrant. `attention`: sdpa | eager |
    flash_attention_2; sdpa is assumed to run a fused kernel. `parallelism`: single | ddp | zero0 to zero3 | fsdp2.
    `fused_linear_cross_entropy`: the loss never holds all logits. `reduce_bucket_size` (elements) and `overlap_comm` are
    DeepSpeed's. Mixed precision with Adam comes to 16 bytes a trained parameter: 2 + 2 + 12 under DeepSpeed, which holds
    float32 masters, sharded by stage (Rajbhandari et al. 2020, arXiv 1910.02054, sections 3.1 and 5), 4 + 4 + 8 under
    autocast. 4-bit weights are packed, and unpacked for the duration of a product. Raises ValueError for an impossible
    model or option.
    """
    import torch

    _check_memory_options(mode, parallelism, optimizer, precision)
    sharding = PARALLELISMS[parallelism]
    deepspeed = sharding.library == "deepspeed"

    def shards_of(states: str) -> int:
        return num_devices if states in sharding.shards else 1

    with isolated(), in_one_line(architecture):
        config = config_of(architecture)
        check_positions(positions(config), sequence_length)
        model = bare_model(config)
        if mode.has_adapters:
            model = with_lora(model, mode, mode.dropout or 0.0)
        # DeepSpeed holds the masters, so the whole module is bf16.
        _set_dtypes(model, "bf16_pure" if deepspeed and precision == "bf16" else precision)
        sizes = parameter_sizes(model, mode)
        if recomputation != "none":
            checkpoint(model, recomputation)
        gradients = sizes.gradient_bytes // shards_of("gradients")
        if sharding.library == "fsdp" and precision == "bf16":
            _set_dtypes(model, "bf16_pure")  # gathered weights are bf16 already
        if mode.four_bit:
            unpack_at_every_use(packed_layers(model), torch.float32 if precision == "fp32" else torch.bfloat16)
        traced = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        step = peak_of_step(
            model,
            batch_size=batch_size,
            sequence_length=sequence_length,
            autocast=precision == "bf16" and sharding.library in (None, "ddp"),
            cuda=device == "cuda",
            fused_kernel=attention != "eager",
            fused_linear_cross_entropy=fused_linear_cross_entropy,
            gradient_share=gradients / traced,
            gradients_stay=gradient_accumulation_steps > 1,
        )
    states, passing = optimizer_bytes(sizes, optimizer, precision, device, sharding, shards_of("optimizer"))
    communication = communication_bytes(sizes, sharding, precision, num_devices, reduce_bucket_size, overlap_comm)
    released = communication if deepspeed else 0  # before the optimizer steps
    return MemoryEstimate(
        weights=sizes.weight_bytes // shards_of("weights"),
        gradients=gradients,
        optimizer=states,
        communication=communication,
        activations=max(step - gradients, passing - released),
    )


def fits(memory: MemoryEstimate, memory_bytes: int) -> bool:
    """True if the estimate is at most `memory_bytes`; a device that only just holds it may still run out."""
    return memory.total <= memory_bytes


def _set_dtypes(model: Any, precision: str) -> None:
    """Give the weights the dtypes of `precision`: bf16 keeps trained weights in float32."""
    import torch

    for parameter in model.parameters():
        wide = precision == "fp32" or (precision == "bf16" and parameter.requires_grad)
        parameter.data = parameter.data.to(torch.float32 if wide else torch.bfloat16)


def _check_memory_options(mode: Mode, parallelism: str, optimizer: str, precision: str) -> None:
    known = [kind for kind, of in PARALLELISMS.items() if not (mode.four_bit and "weights" in of.shards)]
    for setting, value, choices in (
        ("parallelism", parallelism, known),
        ("optimizer", optimizer, OPTIMIZERS),
        ("precision", precision, RESOLVED_PRECISIONS),
    ):
        if value not in choices:
            raise ValueError(f"memory can't be estimated for {setting}={value}; choose one of {', '.join(choices)}")
