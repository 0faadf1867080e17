"""Expected memory of one device. In: architecture, mode and settings as plain values. Out: bytes, by what they hold.

Weights, gradients and optimizer states are formulas over counted parameters; what the step holds beside them is counted
on the meta device. It is an estimate. Left out are the allocator's rounding and fragmentation, the CUDA context and the
libraries' workspaces (about 0.5 to 1 GB), NCCL's own buffers, and what torch.compile or Liger's kernels other than the
fused loss save. Figures of CUDA kernels are not yet run on CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfubench.config import Mode
from mfubench.flops.isolation import isolated
from mfubench.flops.twin import build, checkpoint, within_positions
from mfubench.memory.live import peak_of_step
from mfubench.memory.stand_ins import blocks
from mfubench.workload.architecture import config_of

BF16, FP32 = 2, 4  # bytes
PARALLELISMS = ("single", "ddp", "zero0", "zero1", "zero2", "zero3", "fsdp2")
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "adafactor")
STAGE3_LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's default of stage3_max_live_parameters


@dataclass(frozen=True)
class ExpectedMemory:
    """Bytes on each device; the parts add up to the total.

    Gradients appear while activations go, so the highest moment isn't the sum of both at their highest: `activations` is
    what the highest moment of a step holds beyond the other four. That can be less than all activations together.
    """

    weights: int  # as the device holds them, frozen ones among them; an engine's masters are the optimizer's
    gradients: int  # of what is trained, when all are there
    optimizer: int  # moments, and an engine's master weights
    communication: int  # buckets, and weights gathered from other devices
    activations: int  # with logits, recomputed blocks, autocast's copies of weights and other passing tensors

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.communication + self.activations


@dataclass(frozen=True)
class _Sizes:
    """Elements and bytes of a model's parameters, as the run holds them."""

    weight_bytes: int
    trained: int  # elements
    gradient_bytes: int
    largest: int  # elements of the largest trained parameter
    factored: int  # elements of Adafactor's rows and columns
    all: int  # elements
    block: int  # elements of the largest block, and of all parameters outside the blocks
    outside: int
    trained_block: int
    trained_outside: int


def expected(
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
) -> ExpectedMemory:
    """The memory of a device that trains micro-batches of [batch_size, sequence_length] positions.

    `precision`: bf16 | bf16_pure | fp32. `recomputation`: none | reentrant | non_reentrant. `attention`: sdpa | eager |
    flash_attention_2; the first is taken to run a fused kernel. `parallelism`: single | ddp | zero0 to zero3 | fsdp2.
    `fused_linear_cross_entropy`: the loss never holds all logits. `reduce_bucket_size` (elements) and `overlap_comm` are
    DeepSpeed's. Mixed precision by Adam comes to 16 bytes a trained parameter: 2 + 2 + 12 under an engine that holds
    float32 masters, sharded by stage (Rajbhandari et al. 2020, arXiv 1910.02054, sections 3.1 and 5), 4 + 4 + 8 under
    autocast. Raises ValueError for what the model or the options can't be.
    """
    _check(parallelism, optimizer, precision)
    engine = parallelism.startswith("zero")
    stage = int(parallelism.removeprefix("zero")) if engine else 0
    sharded = parallelism == "fsdp2" or stage == 3
    with isolated():
        config = config_of(architecture)
        within_positions(config, sequence_length)
        model = build(config, mode)
        # An engine holds the masters, so its module is bf16 as a whole.
        _set_dtypes(model, "bf16_pure" if engine and precision == "bf16" else precision)
        sizes = _sizes(model)
        if recomputation != "none":
            checkpoint(model, recomputation)
        gradients = sizes.gradient_bytes // (num_devices if sharded or stage == 2 else 1)
        if parallelism == "fsdp2" and precision == "bf16":
            _set_dtypes(model, "bf16_pure")  # what is gathered is bf16 already
        traced = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        step = peak_of_step(
            _with_dropout(model, mode),
            batch_size=batch_size,
            sequence_length=sequence_length,
            autocast=precision == "bf16" and parallelism in ("single", "ddp"),
            cuda=device == "cuda",
            fused_kernel=attention != "eager",
            fused_linear_cross_entropy=fused_linear_cross_entropy,
            gradient_share=gradients / traced,
            gradients_stay=gradient_accumulation_steps > 1,
        )
    states, passing = _optimizer(
        sizes, optimizer, precision, device, engine, stage, num_devices if sharded or stage else 1
    )
    communication = _communication(sizes, parallelism, precision, num_devices, reduce_bucket_size, overlap_comm)
    released = communication if engine else 0  # before the optimizer steps
    return ExpectedMemory(
        weights=sizes.weight_bytes // (num_devices if sharded else 1),
        gradients=gradients,
        optimizer=states,
        communication=communication,
        activations=max(step - gradients, passing - released),
    )


def fits(memory: ExpectedMemory, memory_bytes: int) -> bool:
    """Whether a device of that many bytes is expected to hold it; one that only just does may still run out."""
    return memory.total <= memory_bytes


def _optimizer(
    sizes: _Sizes, optimizer: str, precision: str, device: str, engine: bool, stage: int, shards: int
) -> tuple[int, int]:
    """Bytes of the states, masters among them, and of what comes and goes in the optimizer's step."""
    flat = engine and stage > 0  # ZeRO steps one flat vector of its own partition
    if engine and precision != "fp32" and (stage == 0 or precision == "bf16"):
        element = FP32
    else:
        element = sizes.gradient_bytes // sizes.trained
    trained = sizes.trained // shards
    # DeepSpeed steps copies of the weights, which ZeRO makes in fp32 too, and of their gradients in the copies' dtype.
    copied = trained * element if engine and (flat or precision != "fp32") else 0
    flattened = sizes.gradient_bytes // shards if flat else 0
    largest = trained if flat else sizes.largest // shards
    widened = element != FP32  # Adafactor works in float32 whatever it is given
    moments, passing = {
        "adamw_torch_fused": (2 * trained * element, 0),
        # Several tensors at once on CUDA: the second moments' square roots; one by one elsewhere, two temporaries.
        "adamw_torch": (2 * trained * element, trained * element if device == "cuda" else 2 * largest * element),
        "sgd": (0, 0),
        # The square of a gradient and one more, beside float32 copies of gradient and weight where they aren't.
        "adafactor": (FP32 * (trained if flat else sizes.factored // shards), FP32 * largest * (4 if widened else 2)),
    }[optimizer]
    return moments + copied, copied + flattened + passing


def _communication(
    sizes: _Sizes, parallelism: str, precision: str, num_devices: int, bucket: int, overlap: bool
) -> int:
    """Bytes that are held for other devices' sake.

    DDP keeps buckets as large as all gradients (its option gradient_as_bucket_view, off unless set). ZeRO-1 and 2 take
    two buckets with overlap_comm; ZeRO-3 takes one, and may keep stage3_max_live_parameters gathered. FSDP2 holds two
    gathered blocks, the next one being fetched, and one block's whole gradients; what is in no block stays gathered.
    """
    compute = FP32 if precision == "fp32" else BF16
    if parallelism == "ddp":
        return sizes.gradient_bytes
    if parallelism in ("zero1", "zero2"):
        return bucket * compute * (2 if overlap else 1)
    if parallelism == "zero3":
        return (bucket + min(sizes.all, STAGE3_LIVE_PARAMETERS)) * compute
    if parallelism == "fsdp2" and num_devices > 1:
        return (2 * sizes.block + sizes.outside + sizes.trained_block + sizes.trained_outside) * compute
    return 0


def _set_dtypes(model: Any, precision: str) -> None:
    """Hold the weights as `precision` does: bf16 keeps what is trained in float32."""
    import torch

    for parameter in model.parameters():
        wide = precision == "fp32" or (precision == "bf16" and parameter.requires_grad)
        parameter.data = parameter.data.to(torch.float32 if wide else torch.bfloat16)


def _sizes(model: Any) -> _Sizes:
    trained = [p for p in model.parameters() if p.requires_grad]
    every = sum(p.numel() for p in model.parameters())
    parts = blocks(model)

    def elements(module: Any, only_trained: bool) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not only_trained)

    return _Sizes(
        weight_bytes=sum(p.nbytes for p in model.parameters()),
        trained=sum(p.numel() for p in trained),
        gradient_bytes=sum(p.nbytes for p in trained),
        largest=max(p.numel() for p in trained),
        factored=sum(
            p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.dim() > 1 else p.numel() for p in trained
        ),
        all=every,
        block=max(elements(block, False) for block in parts),
        outside=every - sum(elements(block, False) for block in parts),
        trained_block=max(elements(block, True) for block in parts),
        trained_outside=sum(p.numel() for p in trained) - sum(elements(block, True) for block in parts),
    )


def _with_dropout(model: Any, mode: Mode) -> Any:
    """The model with the dropout in front of its LoRA matrices that the twin leaves out."""
    import torch

    places: list[Any] = [m.lora_dropout for m in model.modules() if hasattr(m, "lora_dropout")]
    for place in places:
        for adapter in place:
            place[adapter] = torch.nn.Dropout(mode.dropout or 0.0)
    return model


def _check(parallelism: str, optimizer: str, precision: str) -> None:
    for setting, value, choices in (
        ("parallelism", parallelism, PARALLELISMS),
        ("optimizer", optimizer, OPTIMIZERS),
        ("precision", precision, ("bf16", "bf16_pure", "fp32")),
    ):
        if value not in choices:
            raise ValueError(f"no memory is expected of {setting}={value}; it is known of {', '.join(choices)}")
