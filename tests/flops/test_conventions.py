"""One step under everybody's formula: the figures known for a published workload, and real output where it can be had."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architectures import architecture_of

from mfubench.config import Mode
from mfubench.files.paths import PACKAGE
from mfubench.flops.conventions import ARCHITECTURE_QUANTITIES, STEP_QUANTITIES, evaluate, figures, names_in, published
from mfubench.flops.count import profile
from mfubench.flops.meta_model import bare_model, isolated, with_lora
from mfubench.workload.architecture import config_of

BATCH, LENGTH = 2, 2048
# Llama-3.1-8B at 2 x 2048: full training, and LoRA r=8 on eight targets, in TFLOP
KNOWN = {
    "Profiled": (199.828, 138.684),
    "PaLM": (197.629, 136.485),
    "Causal": (191.035, 129.891),
    "Megatron-LM": (191.03, 191.03),
    "6N": (197.35, 197.35),
    "nanoGPT": (210.55, 210.55),
    "llm-foundry": (210.55, 210.55),
    "torchtitan": (197.63, 198.18),
    "HF Trainer total_flos": (184.44, 184.98),
    "TRL": (197.63, 197.63),
    "verl": (203.94, 203.94),
    "LLaMA-Factory cal_mfu": (197.63, 197.63),
    "NeMo AutoModel": (191.03, 127.53),
    "LitGPT estimate_flops": (219.34, 154.10),
    "Lightning measure_flops": (197.63, 136.485),
    "The report's x4 heuristic": (263.14, 263.14),
}


def said(architecture: dict[str, Any], mode: Mode, recomputation: str = "none") -> dict[str, int | None]:
    """Every convention's figure for 2 x 2048 positions."""
    found = profile(architecture, mode, recomputation=recomputation, attention="sdpa")
    step = found.of(BATCH, LENGTH)
    lora = mode.rank is not None
    every = figures(found, step, tokens=BATCH * LENGTH, sequence_length=LENGTH, lora=lora)
    return {figure.convention.name: figure.flops for figure in every}


def llama_8b() -> dict[str, Any]:
    return architecture_of("llama-3.1-8b")


@pytest.mark.parametrize(("mode", "column"), [("full", 0), ("lora8", 1)])
def test_an_identical_run_is_what_each_tool_makes_of_it(modes: dict[str, Mode], mode: str, column: int) -> None:
    tera = {name: flops / 1e12 for name, flops in said(llama_8b(), modes[mode]).items() if flops is not None}
    assert tera == {name: pytest.approx(known[column], abs=0.006) for name, known in KNOWN.items()}


def test_only_the_profiled_count_sees_a_recomputation(modes: dict[str, Mode]) -> None:
    without, recomputing = (said(llama_8b(), modes["full"], kind) for kind in ("none", "reentrant"))
    assert {name for name in without if without[name] != recomputing[name]} == {"Profiled"}
    assert recomputing["Profiled"] == pytest.approx(261.400e12, rel=1e-5)


def test_the_formulas_of_a_small_model_worked_by_hand(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    found = said({**small, "tie_word_embeddings": False, "max_position_embeddings": 4096}, modes["full"])
    # 2 blocks of 36 -> 6 x 8 heads over 2 x 8 key-value heads, and three of 36 x 112; 320 x 36 twice
    projections = 36 * 48 + 36 * 16 + 36 * 16 + 48 * 36
    matrices = 2 * (projections + 3 * 36 * 112) + 320 * 36
    embedding, norms, tokens, square = 320 * 36, 5 * 36, 4096, 2 * 48 * 2048
    assert found["6N"] == 6 * (matrices + embedding + norms) * tokens
    assert found["HF Trainer total_flos"] == 6 * (matrices + norms) * tokens
    assert found["torchtitan"] == 6 * (matrices + norms + 2 * square) * tokens
    assert found["TRL"] == 6 * (matrices + 2 * square) * tokens == found["PaLM"] == found["Lightning measure_flops"]
    assert found["verl"] == 6 * (matrices + embedding + square) * tokens
    assert found["Megatron-LM"] == found["NeMo AutoModel"] == 6 * (matrices + square) * tokens
    # these take the hidden size for the heads' channels
    assert found["nanoGPT"] == (6 * (matrices + embedding + norms) + 12 * 2 * 36 * 2048) * tokens
    heads = 2 * 36 * 36 + 2 * 36 * 12
    assert found["LLaMA-Factory cal_mfu"] == 6 * tokens * (2 * (heads + 3 * 36 * 112 + 2 * 36 * 2048) + 320 * 36)


def test_a_tied_embedding_is_lm_head_too(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    tied, untied = (said({**small, "tie_word_embeddings": t}, modes["full"]) for t in (True, False))
    table = 6 * 320 * 36 * BATCH * LENGTH
    assert untied["6N"] - tied["6N"] == table
    assert untied["HF Trainer total_flos"] - tied["HF Trainer total_flos"] == table  # leaves lm_head out with it
    assert untied["torchtitan"] == tied["torchtitan"]


def test_experts_that_a_token_passes_by_count_for_those_who_count_parameters(
    small: dict[str, Any], modes: dict[str, Mode]
) -> None:
    mixture = {**small, "model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2}
    found = said(mixture, modes["full"])
    idle = 2 * 2 * 3 * 48 * 112  # of two blocks, two experts of three matrices
    embedding, norms = 320 * 48, 5 * 48
    tokens, square = BATCH * LENGTH, 12 * 2 * 48 * LENGTH
    assert found["6N"] + square * tokens == found["PaLM"] + 6 * (idle + embedding + norms) * tokens
    assert found["torchtitan"] == found["PaLM"] + 6 * norms * tokens
    assert found["TRL"] == found["PaLM"]


def test_megatron_counts_the_experts_that_every_token_uses(modes: dict[str, Mode]) -> None:
    qwen_moe = {"model_type": "qwen2_moe", "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408}
    qwen_moe |= {"num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16, "hidden_size": 2048}
    qwen_moe |= {"shared_expert_intermediate_size": 5632, "intermediate_size": 5632, "vocab_size": 151936}
    found = profile(qwen_moe, modes["full"], recomputation="none", attention="sdpa")
    every = figures(found, found.of(1, 4096), tokens=4096, sequence_length=4096, lora=False)
    (megatron,) = (figure.flops for figure in every if figure.convention.name == "Megatron-LM")
    routed = 2048 * 128 * 4 * 16 + 16 * 128 * 4096 + 3 * 2048 * 1408 * 4
    assert megatron == 6 * 4096 * (24 * (routed + 3 * 2048 * 5632) + 2048 * 151936)
    assert round(megatron / 1e12, 2) == 63.31


@pytest.mark.parametrize("mode", ["full", "lora7"])
@pytest.mark.parametrize("tied", [False, True])
def test_hf_trainers_total_flos_is_its_real_output(
    small: dict[str, Any], modes: dict[str, Mode], mode: str, tied: bool
) -> None:
    from transformers import Trainer

    architecture = {**small, "tie_word_embeddings": tied}
    with isolated():
        model = bare_model(config_of(architecture))
        model = with_lora(model, modes[mode]) if mode == "lora7" else model
    inputs = {"input_ids": torch.empty(BATCH, LENGTH, dtype=torch.long, device="meta")}
    real = Trainer.floating_point_ops(SimpleNamespace(model=model), inputs)
    assert said(architecture, modes[mode])["HF Trainer total_flos"] == real


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "llama-3.2-1b"])
def test_trls_formula_is_its_real_output(modes: dict[str, Mode], model: str) -> None:
    theirs = pytest.importorskip("trl.trainer.utils")
    architecture = architecture_of(model)
    real = BATCH * LENGTH * theirs.compute_flops_per_token(config_of(architecture), LENGTH)
    assert said(architecture, modes["full"])["TRL"] == real


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "qwen3-8b"])
def test_verls_formula_is_its_real_output(modes: dict[str, Mode], model: str) -> None:
    theirs = pytest.importorskip("verl.utils.flops_counter")
    architecture = architecture_of(model)
    config = config_of(architecture)
    real = theirs.ESTIMATE_FUNC[config.model_type](config, BATCH * LENGTH, [LENGTH] * BATCH, 1.0) * 1e12
    assert said(architecture, modes["full"])["verl"] == pytest.approx(real, rel=1e-12)


def test_lightnings_measurement_is_its_real_output(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    theirs = pytest.importorskip("lightning.fabric.utilities.throughput")
    architecture = {**small, "max_position_embeddings": LENGTH}
    with isolated():
        model = bare_model(config_of(architecture))
        ids = torch.empty(BATCH, LENGTH, dtype=torch.long, device="meta")
        # a mask of four dimensions is taken as it is, and positions are given: making them looks at values
        mask = torch.empty(1, 1, LENGTH, LENGTH, device="meta")
        places = torch.arange(LENGTH, device="meta").expand(BATCH, -1)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": places, "use_cache": False}
        real = theirs.measure_flops(model, lambda: model(**given).logits, torch.Tensor.sum)
    assert said(architecture, modes["full"])["Lightning measure_flops"] == real


def test_a_formula_of_a_quantity_that_a_model_lacks_says_nothing(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    gpt2 = {"model_type": "gpt2", "vocab_size": 320, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 2048}
    found = said({**gpt2, "pad_token_id": 0}, modes["full"])
    assert found["LLaMA-Factory cal_mfu"] is None  # gpt2 has no intermediate_size of its own
    assert found["nanoGPT"] is not None


def test_every_formula_is_over_known_quantities_and_has_a_source() -> None:
    for convention in published():
        for expression in filter(None, (convention.flops, convention.lora)):
            assert names_in(expression) <= {*ARCHITECTURE_QUANTITIES, *STEP_QUANTITIES}, convention.name
        assert convention.words and convention.source
    assert [convention.name for convention in published()] == list(KNOWN)


def test_formulas_are_exact_arithmetic() -> None:
    assert evaluate("6*N*T + 12*L*h**2", {"N": 7, "T": 3, "L": 2, "h": 5}) == 6 * 7 * 3 + 12 * 2 * 25
    assert evaluate("-(N - 1) / 3 * 3", {"N": 8}) == -7
    assert evaluate("N + 1", {"N": 10**18}) == 10**18 + 1


@pytest.mark.parametrize(
    "expression",
    [
        "M * 2",
        "open('x')",
        "N.real",
        "N[0]",
        "'a' * N",
        "N if N else 1",
        "N ** N",
        "N // 2",
        "lambda: N",
        "__import__",
    ],
)
def test_anything_but_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="is not arithmetic"):
        evaluate(expression, {"N": 7})


def test_other_tools_stand_in_the_data_only() -> None:
    tools = [name.split()[0] for name in KNOWN if name.split()[0] not in ("Profiled", "PaLM", "Causal", "6N", "The")]
    word = re.compile(
        "|".join(rf"(?<![\w-]){re.escape(tool)}(?![\w-])" for tool in tools if tool not in ("Megatron-LM", "HF"))
    )
    assert [str(path) for path in PACKAGE.rglob("*.py") if word.search(path.read_text(encoding="utf-8"))] == []
