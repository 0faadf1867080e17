"""Llama 3.1 at 2 x 2048 positions: the counts published for it, and those of the other conventions, in TFLOP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mfubench.flops.counts import FlopCount

Counted = Callable[[str, str, str], FlopCount]
A100 = 312e12


@pytest.mark.parametrize(
    ("mode", "recomputation", "model", "model_causal", "hardware", "hardware_causal"),
    [
        ("full", "none", 197.629, 191.035, 199.828, 192.135),
        ("full", "reentrant", 197.629, 191.035, 261.400, 251.510),
        ("full", "non_reentrant", 197.629, 191.035, 246.007, 236.116),
        ("lora8", "none", 136.485, 129.891, 138.684, 130.991),
        ("lora8", "reentrant", 136.485, 129.891, 200.635, 190.745),
        ("lora8", "non_reentrant", 136.485, 129.891, 200.627, 190.736),
        ("lora7", "none", 136.459, 129.865, 138.658, 130.965),
        ("lora7", "reentrant", 136.459, 129.865, 200.609, 190.719),
    ],
)
def test_the_counts_of_the_8b_model_are_the_published_ones(
    published: Counted,
    mode: str,
    recomputation: str,
    model: float,
    model_causal: float,
    hardware: float,
    hardware_causal: float,
) -> None:
    counted = published("llama-3.1-8b", mode, recomputation)
    assert counted.model_flops / 1e12 == pytest.approx(model, rel=1e-4)
    assert counted.model_flops_causal / 1e12 == pytest.approx(model_causal, rel=1e-4)
    assert counted.hardware_flops / 1e12 == pytest.approx(hardware, rel=1e-4)
    assert counted.hardware_flops_causal / 1e12 == pytest.approx(hardware_causal, rel=1e-4)
    assert counted.uncounted == {}


@pytest.mark.parametrize(
    ("model", "mode", "recomputation", "hardware"),
    [
        ("llama-3.1-70b", "full", "none", 1785.04),
        ("llama-3.1-70b", "lora8", "reentrant", 1801.84),
        ("llama-3.1-405b", "full", "none", 10164.95),
        ("llama-3.1-405b", "lora8", "reentrant", 10227.25),
    ],
)
def test_the_counts_of_the_larger_models_are_the_published_ones(
    published: Counted, model: str, mode: str, recomputation: str, hardware: float
) -> None:
    assert published(model, mode, recomputation).hardware_flops / 1e12 == pytest.approx(hardware, rel=1e-4)


@pytest.mark.parametrize(
    ("mode", "step_time_s", "hfu_percent", "mfu_percent"),
    [
        ("full", 1.48, 56.6, 42.8),
        ("full", 1.52, 55.1, 41.7),
        ("lora8", 1.15, 55.9, 38.0),
        ("lora8", 1.22, 52.7, 35.9),
    ],
)
def test_the_published_utilisations_are_hfu_and_the_mfu_of_the_same_runs_is_lower(
    published: Counted, mode: str, step_time_s: float, hfu_percent: float, mfu_percent: float
) -> None:
    counted = published("llama-3.1-8b", mode, "reentrant")
    assert round(100 * counted.hardware_flops / (step_time_s * A100), 1) == hfu_percent
    assert round(100 * counted.model_flops / (step_time_s * A100), 1) == mfu_percent


def test_lora_counts_its_own_parameters_and_trains_nothing_else(published: Counted) -> None:
    counted = published("llama-3.1-8b", "lora8", "reentrant")
    # rank x (in + out): q and o, k and v, gate and up and down, of 32 blocks; lm_head once
    block = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
    assert counted.trainable_parameters == 8 * (32 * block + 4096 + 128256)
    assert counted.parameters == 8_030_261_248 + counted.trainable_parameters
    full = published("llama-3.1-8b", "full", "none")
    assert full.parameters == full.trainable_parameters == 8_030_261_248
