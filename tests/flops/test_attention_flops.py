"""Attention's FLOPs by convention, against sums over an explicit mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops.attention import AttentionCall, kernel_flops, model_flops, visible_pairs
from mfubench.flops.count import count

SHAPE = (2, (7,))  # batch, and the documents of a sequence: one
CALL = AttentionCall(heads=3, head_dim=8, value_dim=5, causal=True, window=None)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 7, 8])
def test_visible_pairs_are_those_of_the_mask(window: int | None) -> None:
    mask = [[k <= q and (window is None or q - k < window) for k in range(7)] for q in range(7)]
    assert visible_pairs(replace(CALL, window=window), 7) == sum(map(sum, mask))
    assert visible_pairs(replace(CALL, window=window, causal=False), 7) == 49


def test_model_flops_are_two_products_forward_and_four_backward() -> None:
    scores, output = 2 * 2 * 3 * 7 * 7 * 8, 2 * 2 * 3 * 7 * 7 * 5
    assert model_flops(CALL, *SHAPE, causal=False) == scores + output
    assert model_flops(replace(CALL, gradients="qkv"), *SHAPE, causal=False) == 2 * (scores + output)
    assert model_flops(CALL, *SHAPE, causal=True) == (scores + output) * 28 // 49


def test_a_fused_kernel_computes_the_scores_a_third_time() -> None:
    backward = replace(CALL, gradients="qkv")
    scores = 2 * 2 * 3 * 7 * 7 * 8
    for kernel in ("sdpa", "flash_attention_2"):
        full, causal = ({"kernel": kernel, "skip_masked": skip} for skip in (False, True))
        assert kernel_flops(CALL, *SHAPE, **full) == model_flops(CALL, *SHAPE, causal=False)
        assert kernel_flops(backward, *SHAPE, **full) == model_flops(backward, *SHAPE, causal=False) + scores
        assert kernel_flops(CALL, *SHAPE, **causal) == model_flops(CALL, *SHAPE, causal=True)


@pytest.mark.parametrize(
    ("gradients", "key_products", "value_products"),
    [("", 1, 1), ("qkv", 2, 2), ("qv", 1, 2), ("v", 0, 1), ("q", 1, 1), ("qk", 2, 1)],
)
def test_eager_attention_makes_the_gradients_that_are_needed(
    gradients: str, key_products: int, value_products: int
) -> None:
    """From scores S = Q K', their softmax P and the output O = P V: dP = dO V', dV = P' dO, dQ = dS K, dK = dS' Q."""
    counted = kernel_flops(replace(CALL, gradients=gradients), *SHAPE, kernel="eager", skip_masked=False)
    assert counted == 2 * 2 * 3 * 7 * 7 * (8 * key_products + 5 * value_products)


def test_eager_attention_keeps_its_scores_and_skips_nothing() -> None:
    for call in (CALL, replace(CALL, gradients="qkv"), replace(CALL, window=3)):
        for skip_masked in (False, True):
            counted = kernel_flops(call, *SHAPE, kernel="eager", skip_masked=skip_masked)
            assert counted == model_flops(call, *SHAPE, causal=False)


def test_only_flash_attention_skips_what_a_sliding_window_hides() -> None:
    def skipping(call: AttentionCall, kernel: str) -> int:
        return kernel_flops(call, *SHAPE, kernel=kernel, skip_masked=True)

    windowed = replace(CALL, window=3)
    assert skipping(windowed, "flash_attention_2") == model_flops(windowed, *SHAPE, causal=True)
    assert skipping(windowed, "sdpa") == model_flops(windowed, *SHAPE, causal=False)
    assert skipping(replace(CALL, window=8), "sdpa") == model_flops(CALL, *SHAPE, causal=True)


@pytest.mark.parametrize("window", [None, 3])
def test_packed_documents_attend_each_within_itself(window: int | None) -> None:
    call, lengths = replace(CALL, window=window), (4, 1, 2)
    document = [0, 0, 0, 0, 1, 2, 2]
    square = [[document[k] == document[q] for k in range(7)] for q in range(7)]
    seen = [[square[q][k] and k <= q and (window is None or q - k < window) for k in range(7)] for q in range(7)]
    squares, pairs = sum(map(sum, square)), sum(map(sum, seen))
    assert squares == 16 + 1 + 4
    each = 2 * 2 * 3 * (8 + 5)  # both products of a pair, 2 sequences, 3 heads
    assert model_flops(call, 2, lengths, causal=False) == each * squares
    assert model_flops(call, 2, lengths, causal=True) == each * pairs

    def kernel(name: str, skip_masked: bool) -> int:
        return kernel_flops(call, 2, lengths, kernel=name, skip_masked=skip_masked)

    # one kernel is told where documents begin; the others are given a mask over the whole sequence
    assert (kernel("flash_attention_2", False), kernel("flash_attention_2", True)) == (each * squares, each * pairs)
    assert {kernel(name, skip) for name in ("sdpa", "eager") for skip in (False, True)} == {each * 49}


def test_a_models_own_sliding_window_reaches_the_causal_count(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    def causal(window: int | None) -> int:
        architecture = {**small, "model_type": "mistral", "sliding_window": window}
        counted = count(
            architecture, modes["full"], recomputation="none", attention="sdpa", batch_size=1, sequence_length=16
        )
        return counted.model_flops_causal

    hidden_pairs = 12 * 13 // 2  # sixteen positions, four visible
    assert causal(None) - causal(4) == 2 * 3 * 4 * 6 * 8 * hidden_pairs
    assert causal(16) == causal(None)
