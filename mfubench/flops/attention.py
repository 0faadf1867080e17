"""Attention FLOPs of a recorded call and its documents, by convention.

The cost depends on the kernel: how many products its backward pass has, and whether it computes the pairs of positions
hidden by the causal mask. Both products of the forward pass, scores (query x key) and output (scores x value), take
2 FLOPs per pair, head and channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class AttentionCall:
    """One pass of self-attention over the sequences of a micro-batch: forward, or backward for some gradients."""

    heads: int
    head_dim: int
    value_dim: int
    causal: bool
    window: int | None  # most positions that a query sees; None: no window
    chunk: int | None = None  # positions of a chunk, beyond which no query sees; None: no chunks
    gradients: str = ""  # gradients computed, of queries, keys and values: "qkv" or fewer; none in a forward pass


def visible_pairs(call: AttentionCall, length: int) -> int:
    """Query-key pairs of one head and document that the mask lets through: s(s+1)/2 for causal attention.

    With a sliding window of w < s positions it is the causal count less the triangle beyond the window; in chunks, each
    chunk is a sequence of its own.
    """
    if not call.causal:
        return length**2
    if call.chunk is not None:
        whole, rest = divmod(length, call.chunk)
        return whole * call.chunk * (call.chunk + 1) // 2 + rest * (rest + 1) // 2
    hidden_by_window = max(length - (call.window or length), 0)
    return length * (length + 1) // 2 - hidden_by_window * (hidden_by_window + 1) // 2


def model_flops(call: AttentionCall, batch_size: int, documents: Sequence[int], *, causal: bool) -> int:
    """FLOPs by the PaLM convention (Chowdhery et al. 2022, appendix B): the backward pass is twice the forward pass.

    Over the full square of each document or, with `causal`, over the visible pairs alone (Megatron-LM's count).
    `documents`: lengths of the documents that every sequence is packed with; one if it isn't packed.
    """
    products = 2 if call.gradients else 1
    pairs = sum(visible_pairs(call, length) if causal else length**2 for length in documents)
    return batch_size * _pair_flops(call, pairs, products, products)


def kernel_flops(
    call: AttentionCall, batch_size: int, documents: Sequence[int], *, kernel: str, skip_masked: bool
) -> int:
    """FLOPs of a kernel (sdpa | flash_attention_2 | eager), as in PyTorch's counter; `documents` as in `model_flops`.

    The backward pass of a fused kernel recomputes the scores and computes every gradient: 5 products. Eager attention has
    kept the scores and computes only the needed gradients: 4 products or fewer.
    `skip_masked` leaves out the pairs that the kernel doesn't compute; see `_computed_pairs`.
    """
    pairs = _computed_pairs(call, documents, kernel, skip_masked)
    if kernel == "eager":
        return batch_size * _pair_flops(call, pairs, *_eager_products(call.gradients))
    return batch_size * _pair_flops(call, pairs, 3 if call.gradients else 1, 2 if call.gradients else 1)


def _computed_pairs(call: AttentionCall, documents: Sequence[int], kernel: str, skip_masked: bool) -> int:
    """Pairs of one head and sequence that a kernel computes, or, without `skip_masked`, the squares that they lie in.

    FlashAttention is told where documents begin and computes no pair between two. SDPA and eager attention get a mask over
    the whole sequence and compute the masked pairs; with a sliding window transformers gives SDPA a mask as soon as the
    sequence fills the window. SDPA skips pairs for causality alone, eager attention never.
    """
    if kernel == "flash_attention_2":
        return sum(visible_pairs(call, length) if skip_masked else length**2 for length in documents)
    whole = sum(documents)
    narrowed = any(size is not None and whole >= size for size in (call.window, call.chunk))
    masked = kernel == "eager" or len(documents) > 1 or narrowed
    return visible_pairs(call, whole) if skip_masked and not masked else whole**2


def _eager_products(gradients: str) -> tuple[int, int]:
    """Products over the channels of the keys and of the values; the scores' gradient serves queries and keys."""
    if not gradients:
        return 1, 1
    return ("q" in gradients) + ("k" in gradients), ("v" in gradients) + ("q" in gradients or "k" in gradients)


def _pair_flops(call: AttentionCall, pairs: int, key_products: int, value_products: int) -> int:
    return 2 * call.heads * pairs * (key_products * call.head_dim + value_products * call.value_dim)


def recording_attention(
    calls: Counter[AttentionCall], batch_size: int, sequence_length: int
) -> Callable[..., tuple[Any, None]]:
    """An attention function of transformers' interface that computes nothing and adds each pass over it to `calls`.

    It stands for every kernel: on the meta device PyTorch has no fused ones (SDPA falls back to separate products), so a
    call is recorded and its cost worked out later. As the model's own attention function it is also called when a block is
    recomputed. Tensors: query [batch, heads, sequence, head_dim], key and value with their own heads; the output is
    [batch, sequence, heads, value_dim]. The function raises ValueError if the query heads can't share the key-value heads,
    or if attention isn't over the whole sequences of the micro-batch.
    """
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, call: AttentionCall) -> Any:
            ctx.save_for_backward(query, key, value)
            ctx.call = call
            calls[call] += 1
            return query.new_empty(batch_size, sequence_length, call.heads, call.value_dim)

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            made = "".join(name for name, needed in zip("qkv", ctx.needs_input_grad, strict=False) if needed)
            calls[replace(ctx.call, gradients=made)] += 1
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
        heads, head_dim = query.shape[1], query.shape[3]
        attended = (query.shape[0], query.shape[2], key.shape[2])
        if attended != (batch_size, sequence_length, sequence_length):
            raise ValueError(
                f"model.architecture: attention of [batch, queries, keys] {list(attended)} in a micro-batch of "
                f"{batch_size} x {sequence_length} positions can't be counted"
            )
        if heads % key.shape[1]:
            raise ValueError(
                f"model.architecture: {heads} query heads can't share {key.shape[1]} key-value heads; give "
                "num_attention_heads as a multiple of num_key_value_heads"
            )
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        call = AttentionCall(heads, head_dim, value.shape[-1], causal, sliding_window, _chunk_of(module))
        return Attention.apply(query, key, value, call), None

    return attend


def _chunk_of(module: Any) -> int | None:
    """Positions of a chunk, if the module's layer attends within chunks alone."""
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    layer = getattr(module, "layer_idx", None)  # None: shared by several
    chunked = kinds is not None and layer is not None and kinds[layer] == "chunked_attention"
    return module.config.attention_chunk_size if chunked else None
