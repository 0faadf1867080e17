"""`python -m mfubench.flops`: what it counts, where it says FLOPs are spent, and what it does with a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mfubench.config import Mode
from mfubench.flops import count, profile
from mfubench.flops.__main__ import counted, main, show
from mfubench.flops.breakdown import OTHER, by_module, by_operator, by_phase, group_of, hardware_flops
from mfubench.flops.count import EXPERTS

PUBLISHED = (
    "model=llama-3.1-8b",
    "batch_size=2",
    "sequence_length=2048",
    "gradient_checkpointing=reentrant",
)
EIGHT = "mode.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,lm_head]"
KINDS = ("none", "reentrant", "non_reentrant")
TOTALS = ("model_flops", "model_flops_causal", "hardware_flops", "hardware_flops_causal")


def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What the command prints for machines."""
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What the command prints for a mistake: one screen, and nothing on the standard output."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) <= 5
    return err


def test_the_published_lora_step_is_counted_under_all_four_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, *PUBLISHED, "mode=lora", EIGHT)
    assert [round(found[name] / 1e12, 3) for name in TOTALS] == [136.485, 129.891, 200.635, 190.745]
    assert (found["parameters"], found["trainable_parameters"]) == (8_052_291_584, 22_030_336)
    assert found["flops_per_token"] == found["model_flops"] / 4096
    assert found["uncounted"] == {}


def test_the_published_full_step_is_spent_where_a_hand_count_says(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, *PUBLISHED)
    tokens, square = 4096, 4 * 32 * 4096 * 2048**2 * 2  # scores and values of 32 blocks, 2 sequences
    projections = 2 * tokens * 32 * 2 * (4096 * 4096 + 4096 * 1024)
    mlp = 2 * tokens * 32 * 3 * 4096 * 14336
    lm_head = 2 * tokens * 4096 * 128256
    assert found["by_module"] == {
        "embedding": 0,
        "attention projections": 4 * projections,  # forward, two gradients, recomputed
        "attention scores": int(4.5 * square),  # a fused backward pass is 2.5 times the forward
        "MLP": 4 * mlp,
        "lm_head": 3 * lm_head,
    }
    forward = projections + mlp + square
    assert found["by_phase"] == {
        "forward": forward + lm_head,
        "backward": 2 * (projections + mlp + lm_head) + int(2.5 * square),
        "recomputation": forward,
    }
    assert found["by_operator"] == {"mm": found["hardware_flops"] - int(4.5 * square), "attention": int(4.5 * square)}


def test_an_early_stop_leaves_out_the_last_product_of_each_block(capsys: pytest.CaptureFixture[str]) -> None:
    whole = asked(capsys, *PUBLISHED)
    early = asked(capsys, *PUBLISHED, "gradient_checkpointing=non_reentrant")
    down = 2 * 4096 * 32 * 4096 * 14336
    assert whole["by_phase"]["recomputation"] - early["by_phase"]["recomputation"] == down
    assert whole["by_module"]["MLP"] - early["by_module"]["MLP"] == down
    assert whole["by_phase"]["backward"] == early["by_phase"]["backward"]


def test_lora_spends_on_its_matrices_what_their_sizes_say(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    found = hardware_flops(profile(small, modes["lora2"], recomputation="none", attention="sdpa"), 3, 40)
    # r=8 beside q (36 -> 48) and v (36 -> 16) of two blocks: forward and the weights' gradients; between the two
    # matrices the gradient of what goes in, but into the first block's A, where nothing before it is trained
    a, b = 2 * 8 * 36 * 2, 8 * (48 + 16) * 2
    into = a // 2 + b
    assert by_module(found)["LoRA"] == 2 * 120 * (2 * (a + b) + into)
    # frozen projections: forward, and the gradient of what goes in: of o in both blocks, of q, k and v in the second
    wide, narrow = 36 * 48, 36 * 16
    assert by_module(found)["attention projections"] == 2 * 120 * (2 * (2 * wide + 2 * narrow) + 3 * wide + 2 * narrow)


@pytest.mark.parametrize("mode", ["full", "lora2"])
@pytest.mark.parametrize("recomputation", KINDS)
@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"model_type": "qwen2"},
        {"model_type": "gemma2", "hidden_size": 48, "tie_word_embeddings": True, "attention": "eager"},
        {"model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4},
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
    ],
    ids=["llama", "qwen2", "gemma2", "mixtral", "qwen3_moe"],
)
def test_every_flop_has_its_place(
    small: dict[str, Any], modes: dict[str, Mode], architecture: dict[str, Any], recomputation: str, mode: str
) -> None:
    attention = architecture.get("attention", "sdpa")
    model = {name: value for name, value in {**small, **architecture}.items() if name != "attention"}
    counted_once = profile(model, modes[mode], recomputation=recomputation, attention=attention)
    found = hardware_flops(counted_once, 3, 40)
    total = counted_once.of(3, 40).hardware_flops
    for of in (by_phase, by_operator, by_module):
        assert sum(of(found).values()) == total
    assert OTHER not in by_module(found)
    assert (by_phase(found)["recomputation"] > 0) == (recomputation != "none")
    assert min(found.values()) >= 0


@pytest.mark.parametrize("recomputation", KINDS)
@pytest.mark.parametrize("mode", ["full", "lora2"])
@pytest.mark.parametrize(
    "mixed",
    [
        {"model_type": "gemma2", "hidden_size": 48, "sliding_window": 16},  # every second block looks through a window
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [0]},
    ],
    ids=["gemma2", "first block dense"],
)
def test_repeated_blocks_spend_what_a_trace_of_all_of_them_finds(
    small: dict[str, Any],
    modes: dict[str, Mode],
    monkeypatch: pytest.MonkeyPatch,
    mixed: dict[str, Any],
    mode: str,
    recomputation: str,
) -> None:
    deep = {**small, **mixed, "num_hidden_layers": 6}
    quick = profile(deep, modes[mode], recomputation=recomputation, attention="eager")
    monkeypatch.setattr(sys.modules["mfubench.flops.count"], "repetition", lambda model: None)
    whole = profile(deep, modes[mode], recomputation=recomputation, attention="eager")
    assert quick.of(3, 40) == whole.of(3, 40)
    assert hardware_flops(quick, 3, 40) == hardware_flops(whole, 3, 40)


def test_experts_and_their_router_are_told_apart(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    assert EXPERTS == "batched_mm"
    sizes = {"model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2}
    found = by_module(
        hardware_flops(profile({**small, **sizes}, modes["full"], recomputation="none", attention="sdpa"), 1, 10)
    )
    assert found["experts"] == 6 * 10 * 2 * 2 * 3 * 48 * 112
    assert found["router"] == 6 * 10 * 2 * 4 * 48
    assert "MLP" not in found


@pytest.mark.parametrize(
    ("module", "group"),
    [
        ("model.layers.3.self_attn.q_proj", "attention projections"),
        ("model.layers.3.self_attn.q_proj.base_layer", "attention projections"),
        ("model.layers.3.self_attn.q_proj.lora_A.default", "LoRA"),
        ("base_model.model.lm_head.lora_B.default", "LoRA"),
        ("base_model.model.lm_head.base_layer", "lm_head"),
        ("model.layers.3.mlp.gate_proj", "MLP"),
        ("model.layers.3.mlp.gate", "router"),
        ("model.layers.3.mlp.experts.act_fn", "experts"),
        ("model.layers.3.mlp.shared_expert.gate_proj", "experts"),
        ("model.embed_tokens", "embedding"),
        ("model.rotary_emb", OTHER),
    ],
)
def test_a_module_is_grouped_by_its_name(module: str, group: str) -> None:
    assert group_of(module) == group


def test_accumulation_repeats_the_micro_batch(capsys: pytest.CaptureFixture[str]) -> None:
    one, four = asked(capsys), asked(capsys, "gradient_accumulation_steps=4")
    assert [four[name] for name in TOTALS] == [4 * one[name] for name in TOTALS]
    for by in ("by_phase", "by_operator", "by_module"):
        assert four[by] == {name: 4 * flops for name, flops in one[by].items()}
    assert four["flops_per_token"] == one["flops_per_token"]


def test_a_steps_time_and_a_peak_give_the_utilisation_that_each_would_print(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, *PUBLISHED, "mode=lora", EIGHT, "--step-time-s", "1.15", "--peak-tflops", "312")
    printed = {convention["name"]: round(100 * convention["mfu"], 1) for convention in found["conventions"]}
    assert (printed["Profiled"], printed["PaLM"], printed["TRL"]) == (55.9, 38.0, 55.1)
    assert main([*PUBLISHED, "--step-time-s=1.48", "--peak-tflops=312", "--conventions"]) == 0
    page = capsys.readouterr().out
    assert "56.6%" in page and "42.8%" in page and "6*N*T + 12*L*h*s*T" in page


def test_the_page_for_people_says_what_every_total_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PUBLISHED]) == 0
    page = capsys.readouterr().out
    assert "261.400" in page and "197.629" in page and "23.55%" in page  # 61.573 of 261.400 are recomputed
    assert all(f"{name}: " in page for name in TOTALS)
    assert "nanoGPT" not in page and "MFU, HFU" not in page


def test_what_was_not_counted_is_on_the_page(compose: Any) -> None:
    found = counted(compose())
    console = Console(file=StringIO(), width=200)
    show(
        replace(found, step=replace(found.step, uncounted={"aten::_grouped_mm": 12})), None, console, conventions=False
    )
    assert "not counted, having no formula: aten::_grouped_mm (12 calls)" in console.file.getvalue()


def test_the_command_counts_what_a_run_would(compose: Any, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("mode=lora", "batch_size=3", "sequence_length=96", "attention=eager", "mode.rank=4")
    experiment = compose(*overrides)
    direct = count(
        experiment.model.architecture,
        experiment.mode,
        recomputation="none",
        attention="eager",
        batch_size=3,
        sequence_length=96,
    )
    found = asked(capsys, *overrides)
    assert [found[name] for name in TOTALS] == [getattr(direct, name) for name in TOTALS]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["batch_sise=4"], "try       python -m mfubench.flops batch_size=4"),
        (["model=llama-3.1-9b", "--json"], "try       python -m mfubench.flops --json model=llama-3.1-8b"),
        (["batch_size=0"], "batch_size can't be 0"),
        (["batch_size=1,2", "mode=lora"], "try       python -m mfubench.flops mode=lora batch_size=1"),
        (["sequence_length=99999"], "llama-tiny reads at most 2048 positions"),
        (["mode=lora", "mode.target_modules=[q_prj]"], "q_prj match no linear layer"),
        (["model=gemma-2-9b"], "attention=eager"),
        (["+model.architecture.hiden_size=8"], "did you mean hidden_size"),
        (["model.architecture.model_type=lama"], "did you mean llama"),
        (["model=mixtral-8x7b", "model.architecture.num_experts_per_tok=9"], "k not in range"),
        (["--step-time-s", "1.5"], "give both or neither"),
    ],
)
def test_a_mistake_is_one_screen_with_the_way_out(
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert said in refused(capsys, *argv)


@pytest.mark.parametrize("argv", [["--peak-tflops", "0", "--step-time-s", "1"], ["--convention"], ["-m"]])
def test_a_flag_that_is_wrong_ends_with_2(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


def test_a_known_count_is_shown_without_torch_or_transformers(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom mfubench.flops.__main__ import main\n"
        "assert main(['mode=lora', '--conventions']) == 0\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "MFUBENCH_CACHE": str(tmp_path)}
    for loaded in ("['peft', 'torch', 'transformers']", "[]"):
        out = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert out.stdout.splitlines()[-1] == loaded
