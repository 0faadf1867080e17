"""Model states: bytes of weights, gradients and optimizer states, by formulas over a meta model's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mfubench.config import Mode
from mfubench.config.vocabulary import Sharding
from mfubench.flops.memory.kernels import blocks

BF16, FP32 = 2, 4  # bytes
STAGE3_LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's default of stage3_max_live_parameters


@dataclass(frozen=True)
class ParameterSizes:
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


def parameter_sizes(model: Any, mode: Mode) -> ParameterSizes:
    """The sizes of a model whose parameters have the run's dtypes, except those that `mode` holds in 4 bits."""
    trained = [p for p in model.parameters() if p.requires_grad]
    every = sum(p.numel() for p in model.parameters())
    parts = blocks(model)
    packed = [layer.weight for layer in packed_layers(model)] if mode.four_bit else []
    saved = sum(weight.nbytes - packed_bytes(weight.numel(), mode.double_quantization) for weight in packed)

    def elements(module: Any, only_trained: bool) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not only_trained)

    return ParameterSizes(
        weight_bytes=sum(p.nbytes for p in model.parameters()) - saved,
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


def optimizer_bytes(
    sizes: ParameterSizes, optimizer: str, precision: str, device: str, sharding: Sharding, shards: int
) -> tuple[int, int]:
    """Bytes of the optimizer states, master weights included, and of the temporary tensors of the optimizer's step."""
    deepspeed = sharding.library == "deepspeed"
    flat = deepspeed and "optimizer" in sharding.shards  # ZeRO steps one flat vector of its own partition
    if deepspeed and precision != "fp32" and (not flat or precision == "bf16"):
        element = FP32
    else:
        element = sizes.gradient_bytes // sizes.trained
    trained = sizes.trained // shards
    # DeepSpeed steps copies of the weights, which ZeRO makes in fp32 too, and of their gradients in the copies' dtype.
    copied = trained * element if deepspeed and (flat or precision != "fp32") else 0
    flattened = sizes.gradient_bytes // shards if flat else 0
    largest = trained if flat else sizes.largest // shards
    widened = element != FP32  # Adafactor computes in float32 from any dtype
    moments, passing = {
        "adamw_torch_fused": (2 * trained * element, 0),
        # Several tensors at once on CUDA: the second moments' square roots; one by one elsewhere, two temporaries.
        "adamw_torch": (2 * trained * element, trained * element if device == "cuda" else 2 * largest * element),
        "sgd": (0, 0),
        # The square of a gradient and one more, beside float32 copies of gradient and weight if they aren't float32.
        "adafactor": (FP32 * (trained if flat else sizes.factored // shards), FP32 * largest * (4 if widened else 2)),
    }[optimizer]
    return moments + copied, copied + flattened + passing


def communication_bytes(
    sizes: ParameterSizes, sharding: Sharding, precision: str, num_devices: int, bucket: int, overlap: bool
) -> int:
    """Bytes of communication buffers and of weights gathered from other devices.

    DDP keeps buckets as large as all gradients (its option gradient_as_bucket_view, off unless set). ZeRO-1 and 2 take
    two buckets with overlap_comm; ZeRO-3 takes one, and may keep stage3_max_live_parameters gathered. FSDP2 holds two
    gathered blocks, the next one being fetched, and one block's whole gradients; parameters outside blocks stay gathered.
    """
    compute = FP32 if precision == "fp32" else BF16
    if sharding.library == "ddp":
        return sizes.gradient_bytes
    if sharding.library == "deepspeed" and "weights" in sharding.shards:
        return (bucket + min(sizes.all, STAGE3_LIVE_PARAMETERS)) * compute
    if sharding.library == "deepspeed" and sharding.shards:
        return bucket * compute * (2 if overlap else 1)
    if sharding.library == "fsdp" and num_devices > 1:
        return (2 * sizes.block + sizes.outside + sizes.trained_block + sizes.trained_outside) * compute
    return 0


QUANTIZED_BLOCK, QUANTIZED_SCALES = 64, 256  # weights that share a scale, and scales that share a scale of their own


def packed_layers(model: Any) -> list[Any]:
    """The linear layers in 4 bits: the frozen ones without lm_head. Experts held in one tensor aren't packed."""
    import torch

    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", getattr(head, "original_module", head))  # LoRA or a trained copy is beside it
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return [layer for layer in linear if layer is not head and not layer.weight.requires_grad]


def packed_bytes(elements: int, double: bool | None) -> int:
    """Bytes of a 4-bit weight: 4 bits each and a float32 scale per block.

    With double quantisation (section 3): a byte per scale, a float32 scale for those, and one for their mean.
    """
    blocks = -(-elements // QUANTIZED_BLOCK)
    scales = blocks + FP32 * (-(-blocks // QUANTIZED_SCALES) + 1) if double else FP32 * blocks
    return -(-elements // 2) + scales


def unpack_at_every_use(layers: list[Any], dtype: Any) -> None:
    """Make each layer unpack its weight to `dtype` in the forward pass and again in the backward pass.

    The whole unpacked weight exists for the duration of the product.
    """
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, input: Any, weight: Any) -> Any:
            ctx.weight = weight
            _whole = torch.empty_like(weight, dtype=dtype)
            return input.new_empty(*input.shape[:-1], weight.shape[0])

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (gradient,) = gradients
            _whole = torch.empty_like(ctx.weight, dtype=dtype)
            return gradient.new_empty(*gradient.shape[:-1], ctx.weight.shape[1]), None

    def multiply(weight: Any) -> Any:
        return lambda input: Product.apply(input.to(dtype), weight).to(input.dtype)

    for layer in layers:
        layer.forward = multiply(layer.weight)
