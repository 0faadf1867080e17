"""Weights in 4 bits, as QLoRA holds them (Dettmers et al. 2023, arXiv 2305.14314). In: a frozen model on the meta device.
Out: the layers whose weights are packed, their bytes, and what using them allocates."""

from __future__ import annotations

from typing import Any

BLOCK, SCALES = 64, 256  # weights that share a scale, and scales that share a scale of their own
FP32 = 4  # bytes


def packed_layers(model: Any) -> list[Any]:
    """The linear layers in 4 bits: the frozen ones, less the head. Experts that are one tensor together are none."""
    import torch

    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)  # LoRA may be beside it
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return [layer for layer in linear if layer is not head and not layer.weight.requires_grad]


def packed_bytes(elements: int, double: bool | None) -> int:
    """Bytes of a weight: 4 bits each, a float32 scale per block; with double quantisation (section 3) a byte per scale, a
    float32 scale for those, and one for their mean."""
    blocks = -(-elements // BLOCK)
    scales = blocks + FP32 * (-(-blocks // SCALES) + 1) if double else FP32 * blocks
    return -(-elements // 2) + scales


def unpack_at_every_use(layers: list[Any], dtype: Any) -> None:
    """Make each layer bring its weight back to `dtype` and multiply in that, in the forward pass and again in the backward
    pass: the whole weight is there for as long as the product takes."""
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
