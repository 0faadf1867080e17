"""The analytic FLOP count: formulas over architecture, mode and shape, instead of a trace. Pure.

It shares no code with the trace: all it knows of a model is written down in `analytic_model`, so the two agree only if
both are right. Its rules:

- A product of [positions, inputs] with [inputs, outputs] is 2 x inputs x outputs FLOPs a position; forward once, backward
  once for the weights' gradient and once for the input's (Kaplan et al. 2020, arXiv 2001.08361: 2N and 4N).
- Under LoRA (Hu et al. 2021, arXiv 2106.09685) a frozen layer has no weight gradient, and an input gradient only if
  something in front of it is trained. Frozen 4-bit weights are dequantised, which is no matrix product, and then do
  the same (Dettmers et al. 2023, arXiv 2305.14314, section 3).
- Attention is 2 products forward, scores and output, of 2 x heads x head_dim FLOPs per pair of positions, and 4 backward;
  over the square of a document (PaLM, Chowdhery et al. 2022, appendix B) or the visible pairs (Megatron-LM's count). A
  fused kernel recomputes the scores in its backward pass: 5 products (Dao 2023, arXiv 2307.08691, section 4.1).
- A token passes through the router and its own experts (Jiang et al. 2024, arXiv 2401.04088, section 2.1).
- Checkpointing repeats each block's forward pass (Chen et al. 2016, arXiv 1604.06174); the non-reentrant kind stops at the
  last tensor needed by the backward pass, the input of the block's last product (torch.utils.checkpoint, early stop).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mfubench.config import Mode
from mfubench.flops.analytic_model import AnalyticModel, Block, Layer, analytic_model, not_written_down
from mfubench.flops.counts import AnalyticCount

COUNTS_TOLERANCE = 1e-3  # as a fraction; counts that differ by more are not to be trusted


@dataclass(frozen=True)
class _Passage:
    """One micro-batch's forward and backward pass through the model."""

    blocks: int  # FLOPs of their layers per position
    head: int  # FLOPs of lm_head per position that passes it
    gradients: tuple[str, ...]  # per block: attention's gradients, of queries, keys and values: "qkv" or fewer
    forwards: int  # forward passes of attention


def analytic_count(
    architecture: Mapping[str, Any],
    mode: Mode,
    *,
    recomputation: str,
    attention: str,
    batch_size: int,
    sequence_length: int,
    documents: Sequence[int] | None = None,
    trained_tokens: int | None = None,
) -> AnalyticCount | None:
    """Count one micro-batch of [batch_size, sequence_length] positions with formulas, to check `count`.

    The arguments are those of `profile` and of `Profile.of`. Returns None if there is no formula (`not_written_down` has the
    reason). Nothing is checked: the result is meaningless for arguments that `count` refuses.
    """
    if not_written_down(architecture, mode) is not None:
        return None
    model = analytic_model(architecture, mode)
    lengths = (sequence_length,) if documents is None else documents
    positions = batch_size * sequence_length
    heads = positions if trained_tokens is None else trained_tokens
    needed = _passage(model, needs_input_gradient=model.embedding_trained)
    executed = needed if recomputation == "none" else _with_recomputation(model, recomputation)

    def total(passage: _Passage, backward: Callable[[str], int], pairs: Callable[[Block], int]) -> int:
        products = (2 * passage.forwards + backward(made) for made in passage.gradients)
        scores = sum(n * 2 * block.channels * pairs(block) for n, block in zip(products, model.blocks, strict=True))
        return positions * passage.blocks + heads * passage.head + batch_size * scores

    def squares(_: Block) -> int:
        return sum(length**2 for length in lengths)

    def visible(block: Block) -> int:
        return sum(_visible_pairs(block, length) for length in lengths)

    def computed(block: Block, *, causal: bool) -> int:
        """Pairs that the kernel computes: only a variable-length kernel skips those between documents.

        SDPA and eager get packing as a mask (SDPA a full sliding window too), and compute every masked pair; eager always.
        """
        if attention == "flash_attention_2":
            return visible(block) if causal else squares(block)
        masked = len(lengths) > 1 or (block.window is not None and sequence_length >= block.window)
        return visible(block) if causal and attention == "sdpa" and not masked else sequence_length**2

    kernel = _eager_backward if attention == "eager" else _fused_backward
    return AnalyticCount(
        model_flops=total(needed, _least_backward, squares),
        model_flops_causal=total(needed, _least_backward, visible),
        hardware_flops=total(executed, kernel, lambda block: computed(block, causal=False)),
        hardware_flops_causal=total(executed, kernel, lambda block: computed(block, causal=True)),
        parameters=model.parameters + model.adapters,
        trainable_parameters=model.parameters if model.embedding_trained else model.adapters,
    )


def relative_difference(counted: Any, closed: AnalyticCount) -> float:
    """The largest relative difference among the six figures of `counted`, a FlopCount or its like; `closed` is the base."""
    return max(abs(getattr(counted, name) - figure) / figure for name, figure in asdict(closed).items())


def _passage(model: AnalyticModel, needs_input_gradient: bool) -> _Passage:
    """One forward and backward pass; `needs_input_gradient`: the first block's input requires a gradient."""
    flops, gradients = 0, []
    for block in model.blocks:
        projections = (block.queries, block.keys, block.values)
        q, k, v = (needs_input_gradient or layer.is_trained for layer in projections)
        attended = q or k or v
        halfway = attended or block.output.is_trained  # the residual past attention needs a gradient only then
        wide = halfway or any(layer.is_trained for layer in block.widening)
        flops += sum(_forward_flops(layer) for layer in block.layers)
        flops += sum(_backward_flops(layer, needs_input_gradient) for layer in projections)
        flops += _backward_flops(block.output, attended)
        flops += sum(_backward_flops(layer, halfway) for layer in block.widening)
        flops += _backward_flops(block.narrowing, wide)
        gradients.append("q" * q + "k" * k + "v" * v)
        needs_input_gradient = wide or block.narrowing.is_trained
    head = _forward_flops(model.head) + _backward_flops(model.head, needs_input_gradient)
    return _Passage(flops, head, tuple(gradients), forwards=1)


def _with_recomputation(model: AnalyticModel, recomputation: str) -> _Passage:
    """`_passage` with the blocks' forward pass repeated; the first block's input requires a gradient, under LoRA too.

    Reentrant checkpointing would train nothing without it, so every framework arranges for it, for both kinds.
    """
    once = _passage(model, needs_input_gradient=True)
    again = sum(_forward_flops(layer) for block in model.blocks for layer in block.layers)
    if recomputation == "non_reentrant":
        again -= sum(_last_product(block.narrowing) for block in model.blocks if block.ends_in_product)
    return replace(once, blocks=once.blocks + again, forwards=2)


def _forward_flops(layer: Layer) -> int:
    return 2 * (layer.inputs * layer.outputs + layer.adapters)


def _last_product(layer: Layer) -> int:
    """Forward FLOPs of the layer's last product: the adapter's second, made after the layer's own."""
    return 2 * layer.outputs * (layer.rank or layer.inputs)


def _backward_flops(layer: Layer, needs_input_gradient: bool) -> int:
    """FLOPs of the layer's gradients. Between its two matrices an adapter always needs the input gradient."""
    of_weights = 2 * (layer.trained * layer.inputs * layer.outputs + layer.adapters)
    of_input = 2 * needs_input_gradient * (layer.inputs * layer.outputs + layer.rank * layer.inputs)
    return of_weights + of_input + 2 * layer.rank * layer.outputs


def _least_backward(gradients: str) -> int:
    """Backward products of attention by the PaLM convention: twice the forward pass's."""
    return 4 if gradients else 0


def _fused_backward(gradients: str) -> int:
    """Backward products of a fused kernel: the scores again, then all gradients: of scores, queries, keys and values."""
    return 5 if gradients else 0


def _eager_backward(gradients: str) -> int:
    """Backward products of eager attention: one for each needed gradient; those of queries and keys need the scores' too."""
    return len(gradients) + ("q" in gradients or "k" in gradients)


def _visible_pairs(block: Block, length: int) -> int:
    """Query i, counted from 1, sees i keys, or as many as the window has: s(s+1)/2, or w(w+1)/2 + (s-w)w beyond it."""
    if not block.causal:
        return length**2
    keys = min(block.window or length, length)
    return keys * (keys + 1) // 2 + (length - keys) * keys
