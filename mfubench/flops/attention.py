"""Attention FLOPs. In: the attention calls of a micro-batch, recorded by shape. Out: their FLOPs by convention.

A fused kernel is one operator in the trace, so what it costs is a convention: how many products its backward pass has,
and whether the pairs of positions that the causal mask hides are counted. Both products of the forward pass, scores
(query x key) and output (scores x value), take 2 FLOPs per pair, head and channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class AttentionCall:
    """One pass of self-attention over `batch` sequences; `window` is the positions each query sees at most."""

    batch: int
    heads: int
    sequence_length: int
    head_dim: int
    value_dim: int
    causal: bool
    window: int | None
    backward: bool


def visible_pairs(call: AttentionCall) -> int:
    """Query-key pairs of one head and sequence that the mask lets through: s(s+1)/2 for causal attention.

    With a sliding window of w < s positions it is the causal count less the triangle beyond the window.
    """
    if not call.causal:
        return call.sequence_length**2
    hidden_by_window = max(call.sequence_length - (call.window or call.sequence_length), 0)
    return call.sequence_length * (call.sequence_length + 1) // 2 - hidden_by_window * (hidden_by_window + 1) // 2


def model_flops(call: AttentionCall, *, causal: bool) -> int:
    """FLOPs by the PaLM convention (Chowdhery et al. 2022, appendix B): the backward pass is twice the forward pass.

    Over the full square of pairs, or, with `causal`, over the visible pairs alone (Megatron-LM's count).
    """
    products = 2 if call.backward else 1
    pairs = visible_pairs(call) if causal else call.sequence_length**2
    return _flops(call, pairs, key_products=products, value_products=products)


def fused_flops(call: AttentionCall, *, kernel: str, skip_masked: bool) -> int:
    """FLOPs of a fused kernel, as PyTorch's counter has them: the backward pass recomputes the scores, 5 products.

    `skip_masked` leaves out the pairs that `kernel` (sdpa | flash_attention_2) doesn't compute. SDPA is given a sliding
    window as a mask, by transformers as soon as the sequence fills the window; its kernels compute masked pairs.
    """
    masked_by_tensor = kernel == "sdpa" and call.window is not None and call.sequence_length >= call.window
    pairs = visible_pairs(call) if skip_masked and not masked_by_tensor else call.sequence_length**2
    return _flops(call, pairs, key_products=3 if call.backward else 1, value_products=2 if call.backward else 1)


def _flops(call: AttentionCall, pairs: int, *, key_products: int, value_products: int) -> int:
    channels = key_products * call.head_dim + value_products * call.value_dim
    return 2 * call.batch * call.heads * pairs * channels


def recording_attention(record: Callable[[AttentionCall], None]) -> Callable[..., tuple[Any, None]]:
    """An attention function of transformers' interface that computes nothing and records each pass over it.

    It stands for the fused kernels on the meta device, where PyTorch has none: SDPA falls to separate products there,
    whose backward pass costs less. Being the model's own attention function it is also called when a block is
    recomputed. Tensors: query [batch, heads, sequence, head_dim], key and value with their own heads; the output is
    [batch, sequence, heads, value_dim].
    """
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, call: AttentionCall) -> Any:
            ctx.save_for_backward(query, key, value)
            ctx.call = call
            record(call)
            return query.new_empty(call.batch, call.sequence_length, call.heads, call.value_dim)

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            record(replace(ctx.call, backward=True))
            return *(torch.empty_like(saved) for saved in ctx.saved_tensors), None

    def attend(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        *,
        sliding_window: int | None = None,
        is_causal: bool | None = None,
        **_: Any,
    ) -> tuple[Any, None]:
        batch, heads, sequence_length, head_dim = query.shape
        assert key.shape[2] == sequence_length, f"{sequence_length} queries over {key.shape[2]} keys while training"
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        call = AttentionCall(
            batch, heads, sequence_length, head_dim, value.shape[-1], causal, sliding_window, backward=False
        )
        return Attention.apply(query, key, value, call), None

    return attend
