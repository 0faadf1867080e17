"""Attention's FLOPs by convention, against sums over an explicit mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops import count
from mfubench.flops.attention import AttentionCall, fused_flops, model_flops, visible_pairs

CALL = AttentionCall(
    batch=2, heads=3, sequence_length=7, head_dim=8, value_dim=5, causal=True, window=None, backward=False
)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 7, 8])
def test_visible_pairs_are_those_of_the_mask(window: int | None) -> None:
    mask = [[k <= q and (window is None or q - k < window) for k in range(7)] for q in range(7)]
    assert visible_pairs(replace(CALL, window=window)) == sum(map(sum, mask))
    assert visible_pairs(replace(CALL, window=window, causal=False)) == 49


def test_model_flops_are_two_products_forward_and_four_backward() -> None:
    scores, output = 2 * 2 * 3 * 7 * 7 * 8, 2 * 2 * 3 * 7 * 7 * 5
    assert model_flops(CALL, causal=False) == scores + output
    assert model_flops(replace(CALL, backward=True), causal=False) == 2 * (scores + output)
    assert model_flops(CALL, causal=True) == (scores + output) * 28 // 49


def test_a_fused_kernel_computes_the_scores_a_third_time() -> None:
    backward = replace(CALL, backward=True)
    scores = 2 * 2 * 3 * 7 * 7 * 8
    for kernel in ("sdpa", "flash_attention_2"):
        assert fused_flops(CALL, kernel=kernel, skip_masked=False) == model_flops(CALL, causal=False)
        assert fused_flops(backward, kernel=kernel, skip_masked=False) == model_flops(backward, causal=False) + scores
        assert fused_flops(CALL, kernel=kernel, skip_masked=True) == model_flops(CALL, causal=True)


def test_only_flash_attention_skips_what_a_sliding_window_hides() -> None:
    windowed = replace(CALL, window=3)
    assert fused_flops(windowed, kernel="flash_attention_2", skip_masked=True) == model_flops(windowed, causal=True)
    assert fused_flops(windowed, kernel="sdpa", skip_masked=True) == model_flops(windowed, causal=False)
    unfilled = replace(CALL, window=8)
    assert fused_flops(unfilled, kernel="sdpa", skip_masked=True) == model_flops(CALL, causal=True)


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
