"""Weights in 4 bits, as bitsandbytes holds them."""

from __future__ import annotations

from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import PreTrainedModel


def pack(model: PreTrainedModel, *, double: bool) -> None:
    """Hold the weights of the blocks' linear layers as NF4; `double`: and their scales in 8 bits."""
    decoder = model.get_decoder()
    for name, linear in [(name, module) for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]:
        layer = Linear4bit(
            *(linear.in_features, linear.out_features, False, linear.weight.dtype),
            compress_statistics=double,
            quant_type="nf4",
        )
        layer.load_state_dict(linear.state_dict())
        decoder.set_submodule(name, layer.to(linear.weight.device))
    model.is_loaded_in_4bit = True  # PEFT asks for it
