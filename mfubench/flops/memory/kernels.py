"""Stand-ins on the meta device for a device's kernels and for autocast: they allocate the same tensors and compute nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mfubench.flops.trace import attention_of


def stand_ins(*, autocast: bool, fused_dropout: bool) -> Any:
    """A context with bf16 autocast's bfloat16 copies for products, and dropout that keeps a byte mask, as on CUDA.

    (Elsewhere PyTorch keeps a factor per element.) As torch.autocast does, it keeps the copies of trained weights until the
    forward pass is over: `cache.clear()`, and `caching = False` until the next one (a recomputed block's copies live as long
    as the tensors it saves).
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_map

    operators: list[tuple[Any, str]] = [(functional, "linear"), (functional, "grouped_mm"), (torch, "_grouped_mm")]
    operators += [(torch, name) for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum")]
    operators += [(torch.Tensor, name) for name in ("matmul", "__matmul__", "mm", "bmm", "baddbmm")]
    products = {getattr(place, name) for place, name in operators if hasattr(place, name)}

    class StandIns(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.cache: dict[Any, Any] = {}
            self.caching = True

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if autocast and func in products:
                args, kwargs = tree_map(self._cast, (args, kwargs))
            elif fused_dropout and func is functional.dropout:
                return _fused_dropout(*args, **kwargs)
            return func(*args, **kwargs)

        def _cast(self, value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
                return value
            if not (self.caching and value.is_leaf and value.requires_grad):
                return value.to(torch.bfloat16)
            if value not in self.cache:
                self.cache[value] = value.to(torch.bfloat16)
            return self.cache[value]

    return StandIns()


def _fused_dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    import torch

    return torch.native_dropout(input, p, training)[0] if training and p else input


def blocks(model: Any) -> list[Any]:
    """The modules of a model that transformers recomputes one by one."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def fused_attention(model: Any, *, autocast: bool, cuda: bool) -> Iterator[None]:
    """Replace the model's attention by a fused kernel; its own is restored afterwards.

    As FlashAttention-2 (Dao 2023, arXiv 2307.08691): the forward pass keeps query, key, value, output and a float32
    per query and head; on CUDA the backward pass sums the query's gradient in float32, and those of grouped keys and
    values for each query head. The CPU's kernel does neither. Tensors: [batch, heads, sequence, head_dim].
    """
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            batch, heads, length, _ = query.shape
            out = query.new_empty(batch, length, heads, value.shape[-1])
            ctx.save_for_backward(query, key, value, out, query.new_empty(batch, heads, length, dtype=torch.float32))
            return out

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            query, key, value, *_rest = ctx.saved_tensors
            gradients = tuple(torch.empty_like(saved) for saved in (query, key, value))
            if cuda:
                heads = query.shape[1]
                beside = [torch.empty_like(query, dtype=torch.float32)]
                if key.shape[1] != heads:
                    beside += [saved.new_empty(saved.shape[0], heads, *saved.shape[2:]) for saved in (key, value)]
            return gradients

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any) -> tuple[Any, None]:
        if autocast:
            query, key, value = (tensor.to(torch.bfloat16) for tensor in (query, key, value))
        return Attention.apply(query, key, value), None

    with attention_of(model, attend):
        yield


def fused_loss(model: Any, *, autocast: bool) -> Callable[..., Any]:
    """A loss of the model's last hidden states that never holds all logits, as Liger's fused linear cross entropy.

    Its gradients are computed in the forward pass, a chunk of positions at a time (Hsu et al. 2024, arXiv 2410.10989,
    section 3.2): the chunk's logits take about as much as the hidden states.
    """
    import torch

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any) -> Any:
            computed = weight.to(torch.bfloat16) if autocast and weight.dtype == torch.float32 else weight
            (positions, channels), vocabulary = hidden.shape, weight.shape[0]
            chunks = -(-vocabulary // channels)
            chunk = min(1 << (-(-positions // chunks) - 1).bit_length(), positions)
            gradients = [torch.empty_like(hidden), torch.empty_like(weight) if weight.requires_grad else None]
            logits = hidden.new_empty(chunk, vocabulary, dtype=computed.dtype)
            if weight.requires_grad:
                torch.mm(logits.t(), hidden.new_empty(chunk, channels, dtype=computed.dtype))
            ctx.gradients = gradients
            return hidden.new_empty((), dtype=torch.float32)

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            gradients, ctx.gradients = ctx.gradients, None
            return tuple(gradients)

    causal_model = model.get_base_model() if hasattr(model, "get_base_model") else model

    def loss_of(input_ids: Any, attention_mask: Any) -> Any:
        decoder = causal_model.get_decoder()
        hidden = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return Loss.apply(hidden.flatten(0, 1), causal_model.get_output_embeddings().weight)

    return loss_of
