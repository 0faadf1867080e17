"""The closed form: by itself against published figures, and against the trace, with which it shares no code."""

from __future__ import annotations

import ast
import inspect
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from architectures import MODELS, PARAMETERS, architecture_of

from mfubench.config import Mode
from mfubench.flops.analytic import analytic_count, relative_difference
from mfubench.flops.analytic_model import DEFAULTS, AnalyticModel, not_written_down
from mfubench.flops.count import profile
from mfubench.flops.counts import AnalyticCount, FlopCount
from mfubench.flops.profile import Profile

RECOMPUTATIONS = ("none", "reentrant", "non_reentrant")
KERNELS = ("sdpa", "flash_attention_2", "eager")
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def lora(*targets: str, rank: int = 8) -> Mode:
    return Mode(name="lora", rank=rank, alpha=16, dropout=0.05, target_modules=list(targets))


FULL = Mode(name="full")
MODES = {
    "full": FULL,
    "seven": lora(*SEVEN),
    "qv": lora("q_proj", "v_proj"),
    "head": lora("lm_head", rank=3),
    "down": lora("down_proj"),
}
EVERYTHING = [(mode, recomputation) for mode in MODES for recomputation in RECOMPUTATIONS]
ATTENTION_ONLY = [("full", "non_reentrant"), ("qv", "none"), ("qv", "non_reentrant"), ("head", "reentrant")]
SOME = [*ATTENTION_ONLY, ("seven", "none"), ("seven", "non_reentrant"), ("down", "none")]

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MIXTURE = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
SLIDING = {"use_sliding_window": True, "sliding_window": 9}
VARIANTS: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"model_type": "llama"}, EVERYTHING),
    (
        {"model_type": "llama", "head_dim": 10, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        SOME,
    ),
    ({"model_type": "mistral", "sliding_window": 7}, SOME[:4]),
    ({"model_type": "qwen2", "max_window_layers": 1, "num_key_value_heads": None, **SLIDING}, SOME),
    (
        {"model_type": "qwen3", "attention_bias": True, "layer_types": ["full_attention", "sliding_attention"] * 2}
        | SLIDING,
        SOME[:5],
    ),
    ({"model_type": "gemma2", "sliding_window": 10}, SOME),
    ({"model_type": "gemma2", "use_bidirectional_attention": True, "tie_word_embeddings": False}, SOME[:1]),
    ({"model_type": "mixtral", "num_local_experts": 4, "sliding_window": 20}, ATTENTION_ONLY),
    ({**MIXTURE, "decoder_sparse_step": 2, "head_dim": 10, "attention_bias": True}, ATTENTION_ONLY),
    ({**MIXTURE, "mlp_only_layers": [0, 1], **SLIDING}, ATTENTION_ONLY[:2]),
]
CASES = [
    pytest.param(change, mode, recomputation, id=f"{index}-{change['model_type']}-{mode}-{recomputation}")
    for index, (change, chosen) in enumerate(VARIANTS)
    for mode, recomputation in chosen
]


def worked_out(architecture: dict[str, Any], mode: Mode, recomputation: str, **changes: Any) -> AnalyticCount:
    options: dict[str, Any] = {
        "recomputation": recomputation,
        "attention": "sdpa",
        "batch_size": 2,
        "sequence_length": 2048,
    } | changes
    found = analytic_count(architecture, mode, **options)
    assert found is not None
    return found


def kernels_of(architecture: dict[str, Any]) -> tuple[str, ...]:
    """SDPA can't cap scores, so `profile` refuses it for Gemma 2."""
    return KERNELS[1:] if architecture["model_type"] == "gemma2" else KERNELS


def assert_they_agree(
    traced: Profile, architecture: dict[str, Any], mode: Mode, recomputation: str, shapes: list[tuple[int, int]]
) -> None:
    """To the last FLOP, but for rope: transformers up to 5.17 multiplies positions by frequencies as matrices."""
    head_dim = architecture.get("head_dim") or architecture["hidden_size"] // architecture["num_attention_heads"]
    for attention in kernels_of(architecture):
        for batch, length in shapes:
            for inside in ({}, {"documents": (length - 4, 3, 1), "trained_tokens": length // 2}):
                # the kernel changes how a trace is read, not the trace
                found = replace(traced, attention=attention).of(batch, length, **inside)
                shape = {"attention": attention, "batch_size": batch, "sequence_length": length, **inside}
                expected = asdict(worked_out(architecture, mode, recomputation, **shape))
                more = {name: getattr(found, name) - figure for name, figure in expected.items()}
                assert set(more.values()) <= {0, head_dim * batch * length}, (shape, more)
                assert more["parameters"] == more["trainable_parameters"] == 0


@pytest.mark.sample(3)
@pytest.mark.parametrize(("change", "mode", "recomputation"), CASES)
def test_the_closed_form_of_a_small_model_is_the_traces_count(
    change: dict[str, Any], mode: str, recomputation: str
) -> None:
    architecture = {**SMALL, **change}
    traced = profile(architecture, MODES[mode], recomputation=recomputation, attention=kernels_of(architecture)[0])
    # 8 positions are within some windows and beyond others; 20 fill them all
    assert_they_agree(traced, architecture, MODES[mode], recomputation, [(1, 8), (3, 20)])


@pytest.mark.parametrize(
    "target", ["k_proj", "o_proj", "up_proj", "layers.1.mlp.gate_proj", "layers.2.self_attn.q_proj"]
)
@pytest.mark.parametrize("recomputation", ["none", "non_reentrant"])
def test_one_lora_target_alone_decides_which_gradients_are_needed(target: str, recomputation: str) -> None:
    architecture, mode = {**SMALL, "model_type": "llama"}, lora(target)
    traced = profile(architecture, mode, recomputation=recomputation, attention="sdpa")
    assert_they_agree(traced, architecture, mode, recomputation, [(3, 20)])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("mode", "recomputation"), [("full", "non_reentrant"), ("qv", "reentrant")])
def test_the_closed_form_of_every_model_there_is_is_the_traces_count(model: str, mode: str, recomputation: str) -> None:
    architecture = architecture_of(model)
    traced = profile(architecture, MODES[mode], recomputation=recomputation, attention=kernels_of(architecture)[0])
    assert_they_agree(traced, architecture, MODES[mode], recomputation, [(2, 2048), (1, 8192)])


@pytest.mark.parametrize(
    ("mode", "recomputation", "figures"),
    [
        ("full", "none", (197.629, 191.035, 199.828, 192.135)),
        ("full", "reentrant", (197.629, 191.035, 261.400, 251.510)),
        ("full", "non_reentrant", (197.629, 191.035, 246.007, 236.116)),
        ("eight", "none", (136.485, 129.891, 138.684, 130.991)),
        ("eight", "reentrant", (136.485, 129.891, 200.635, 190.745)),
        ("eight", "non_reentrant", (136.485, 129.891, 200.627, 190.736)),
        ("seven", "none", (136.459, 129.865, 138.658, 130.965)),
        ("seven", "reentrant", (136.459, 129.865, 200.609, 190.719)),
    ],
)
def test_the_closed_form_alone_gives_the_published_counts_of_the_8b_model(
    mode: str, recomputation: str, figures: tuple[float, ...]
) -> None:
    modes = {**MODES, "eight": lora(*SEVEN, "lm_head")}
    found = worked_out(architecture_of("llama-3.1-8b"), modes[mode], recomputation)
    flops = (found.model_flops, found.model_flops_causal, found.hardware_flops, found.hardware_flops_causal)
    assert [count / 1e12 for count in flops] == pytest.approx(list(figures), rel=0, abs=0.0006)


@pytest.mark.parametrize(
    ("model", "mode", "recomputation", "hardware"),
    [
        ("llama-3.1-70b", FULL, "none", 1785.04),
        ("llama-3.1-70b", lora(*SEVEN, "lm_head"), "reentrant", 1801.84),
        ("llama-3.1-405b", FULL, "none", 10164.95),
        ("llama-3.1-405b", lora(*SEVEN, "lm_head"), "reentrant", 10227.25),
    ],
)
def test_the_closed_form_alone_gives_the_published_counts_of_the_larger_models(
    model: str, mode: Mode, recomputation: str, hardware: float
) -> None:
    found = worked_out(architecture_of(model), mode, recomputation)
    assert found.hardware_flops / 1e12 == pytest.approx(hardware, rel=0, abs=0.006)


def test_the_closed_form_alone_gives_the_published_numbers_of_parameters() -> None:
    assert {m: worked_out(architecture_of(m), FULL, "none").parameters for m in PARAMETERS} == PARAMETERS


@pytest.mark.parametrize("family", DEFAULTS)
@pytest.mark.parametrize("change", [{}, {"use_sliding_window": True, "num_hidden_layers": 30}], ids=["bare", "sliding"])
def test_a_word_that_isnt_given_has_transformers_own_default(family: str, change: dict[str, Any]) -> None:
    from transformers import AutoConfig

    completed = AutoConfig.for_model(family, **change).to_dict()
    beyond_all_windows = {"sequence_length": 8192, "attention": "flash_attention_2"}
    bare = worked_out({"model_type": family, **change}, FULL, "none", **beyond_all_windows)
    assert bare == worked_out(completed, FULL, "none", **beyond_all_windows)


@pytest.mark.parametrize(
    ("architecture", "mode"),
    [
        ({**SMALL, "model_type": "gpt2"}, FULL),
        ({**SMALL}, FULL),
        ({**SMALL, **MIXTURE, "mlp_only_layers": [0]}, lora("q_proj", "down_proj")),  # peft's adapters of experts
    ],
)
def test_what_has_no_formula_gives_none_and_no_error(architecture: dict[str, Any], mode: Mode) -> None:
    shape = {"batch_size": 2, "sequence_length": 8}
    assert analytic_count(architecture, mode, recomputation="none", attention="sdpa", **shape) is None
    assert not_written_down(architecture, mode)


def test_apart_is_the_largest_of_the_six_relative_differences() -> None:
    expected = AnalyticCount(1000, 800, 2000, 1600, 50, 10)
    same = FlopCount(1000, 800, 2000, 1600, 50, 10, uncounted={})
    assert relative_difference(same, expected) == 0
    assert relative_difference(replace(same, hardware_flops=1990, model_flops=1001), expected) == pytest.approx(0.005)
    assert relative_difference(replace(same, trainable_parameters=11), expected) == pytest.approx(0.1)


def test_the_closed_form_shares_no_code_with_the_trace() -> None:
    known = {
        "__future__",
        "collections.abc",
        "dataclasses",
        "typing",
        "mfubench.config",
        "mfubench.flops.analytic_model",
        "mfubench.flops.counts",  # the nouns of both counts
    }
    for noun in (analytic_count, AnalyticCount, AnalyticModel):
        tree = ast.parse(Path(inspect.getfile(noun)).read_text(encoding="utf-8"))
        assert {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} <= known
        assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))


def test_a_rank_of_another_mode_changes_nothing() -> None:
    """A sweep over modes gives its settings to each of them."""
    llama, swept = {**SMALL, "model_type": "llama"}, replace(FULL, rank=4, target_modules=["q_proj"])
    kinds = {"recomputation": "none", "attention": "sdpa"}
    assert profile(llama, swept, **kinds) == profile(llama, FULL, **kinds)
    shape = {"batch_size": 2, "sequence_length": 16}
    assert analytic_count(llama, swept, **kinds, **shape) == analytic_count(llama, FULL, **kinds, **shape)
