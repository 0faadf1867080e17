"""`python -m mfubench.flops`: what it counts, where it says FLOPs are spent, and what it does with a mistake."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mfubench.config import Experiment
from mfubench.flops.__main__ import count_step, main
from mfubench.flops.count import count
from mfubench.flops.flop_table import show_step
from mfubench.flops.step import second_count, step_flops

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


@pytest.mark.parametrize("recomputation", KINDS)
def test_qlora_costs_what_lora_does(capsys: pytest.CaptureFixture[str], recomputation: str) -> None:
    shape = ("model=llama-3.1-8b", "batch_size=2", "sequence_length=2048", EIGHT)
    lora, qlora = (
        asked(capsys, *shape, f"gradient_checkpointing={recomputation}", f"mode={m}") for m in ("lora", "qlora")
    )
    assert [lora.pop("workload")["mode"], qlora.pop("workload")["mode"]] == ["lora", "qlora"]
    assert lora == qlora and qlora["closed_form"] is not None
    assert qlora["parameters"] == 8_052_291_584  # elements, however many bits each has


def test_the_second_count_is_shown_beside_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, *PUBLISHED)
    assert [round(found["closed_form"][name] / 1e12, 3) for name in TOTALS] == [197.629, 191.035, 261.400, 251.510]
    assert found["closed_form_apart"] < 1e-9
    assert main([*PUBLISHED]) == 0
    assert "closed form: 197.629, 191.035, 261.400, 251.510, 0.00% apart" in capsys.readouterr().out
    one, three = (asked(capsys, f"gradient_accumulation_steps={n}")["closed_form"] for n in (1, 3))
    assert three == {name: 3 * flops for name, flops in one.items()}


def test_a_model_without_a_second_count_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    other = ("model.architecture.model_type=olmo2",)
    found = asked(capsys, *other)
    assert found["closed_form"] is None and found["closed_form_apart"] is None
    assert main([*other]) == 0
    assert (
        "no second count: the closed form has none of this: model_type=olmo2 is none of llama"
        in capsys.readouterr().out
    )


def test_counts_that_disagree_are_both_printed_and_end_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = second_count

    def wrong(experiment: Experiment, **shape: Any) -> Any:
        found = right(experiment, **shape)
        assert found is not None
        return replace(found, hardware_flops=found.hardware_flops + found.hardware_flops // 500)

    monkeypatch.setattr("mfubench.flops.__main__.second_count", wrong)
    assert main([]) == 1
    out, err = capsys.readouterr()
    assert "0.20% apart" in out and "the two counts disagree" in err and "hardware_flops " in err


def test_an_operator_without_a_formula_is_named_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(experiment: Experiment, **shape: Any) -> Any:
        return replace(step_flops(experiment, **shape), uncounted={"custom::kernel [8, 64]": 12})

    monkeypatch.setattr("mfubench.flops.__main__.step_flops", lacking)
    assert main(["--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["uncounted"] == {"custom::kernel [8, 64]": 12}
    assert "no formula counts custom::kernel [8, 64] (12 calls)" in err and "inconsistent" in err


def test_packed_documents_and_trained_tokens_are_flags(capsys: pytest.CaptureFixture[str]) -> None:
    flash = "attention=flash_attention_2"
    whole, packed = asked(capsys, *PUBLISHED, flash), asked(capsys, *PUBLISHED, flash, "--documents=512,512,1024")
    assert packed["workload"]["documents"] == [512, 512, 1024]
    pair = 2 * 4 * 4096 * 32  # two sequences, two products, 32 blocks of 4096 channels
    apart = 2048**2 - 2 * 512**2 - 1024**2
    assert whole["model_flops"] - packed["model_flops"] == 3 * pair * apart
    assert whole["by_module"]["attention scores"] - packed["by_module"]["attention scores"] == int(4.5 * pair) * apart
    few = asked(capsys, *PUBLISHED, "--trained-tokens", "1000")
    assert few["by_module"]["lm_head"] == 3 * 2 * 1000 * 4096 * 128256
    assert whole["hardware_flops"] - few["hardware_flops"] == 3 * 2 * 3096 * 4096 * 128256
    assert max(found["closed_form_apart"] for found in (packed, few)) < 1e-9
    assert main(["--documents=56,200", "--trained-tokens=9"]) == 0
    assert (
        "(documents of 56, 200)" in (page := capsys.readouterr().out) and "9 of a micro-batch through lm_head" in page
    )


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m mfubench.flops --json --conventions | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_an_early_stop_leaves_out_the_last_product_of_each_block(capsys: pytest.CaptureFixture[str]) -> None:
    whole = asked(capsys, *PUBLISHED)
    early = asked(capsys, *PUBLISHED, "gradient_checkpointing=non_reentrant")
    down = 2 * 4096 * 32 * 4096 * 14336
    assert whole["by_phase"]["recomputation"] - early["by_phase"]["recomputation"] == down
    assert whole["by_module"]["MLP"] - early["by_module"]["MLP"] == down
    assert whole["by_phase"]["backward"] == early["by_phase"]["backward"]


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
    assert asked(capsys, *PUBLISHED, "mode=lora", EIGHT, "--step-time-s", "1.15", "hardware=a100") == found
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
    found = count_step(compose())
    console = Console(file=StringIO(), width=200)
    show_step(
        replace(found, step=replace(found.step, uncounted={"aten::_grouped_mm": 12})), None, console, conventions=False
    )
    assert (
        "not counted, having no formula (shapes of a small micro-batch): aten::_grouped_mm (12 calls)"
        in console.file.getvalue()
    )


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
    ("peak", "said"),
    [
        ("0.1", "318.1% of the peak is more than a device can do"),
        ("1", ""),
        ("312e12", "TFLOP/s of one device (312, not 312e12)"),
    ],
)
def test_an_mfu_that_cannot_be_right_is_doubted_in_a_line(
    capsys: pytest.CaptureFixture[str], peak: str, said: str
) -> None:
    assert main(["--step-time-s", "0.1", "--peak-tflops", peak]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said) and said in "".join(lines)


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
        (["--step-time-s", "1.5"], "needs a peak: hardware=NAME, such as hardware=h100-sxm, or --peak-tflops 989.4"),
        (["--peak-tflops", "312"], "give both or neither"),
        (["--step-time-s", "1", "hardware=t4", "precision=bf16"], "needs bf16, which Tesla T4 doesn't have"),
        (
            ["model.architecture.model_type=ctrl", "attention=eager", "gradient_checkpointing=reentrant"],
            "expected  none",
        ),
        (["model=mixtral-8x7b", "mode=lora"], "mode.target_modules=[q_proj,k_proj,v_proj,o_proj]"),
        (["model=qwen3-30b-a3b", "mode=qlora"], "q_proj, k_proj, v_proj, o_proj, lm_head"),
        (
            ["model=qwen3-30b-a3b", "mode=lora", "model.architecture.mlp_only_layers=[0]"],
            "mode.target_modules=[q_proj,k_proj,v_proj,o_proj]",
        ),
        (
            [
                "model=qwen3-30b-a3b",
                "model.architecture.decoder_sparse_step=2",
                "mode=lora",
                "mode.target_modules=[up_proj]",
            ],
            "expected  some of q_proj, k_proj, v_proj, o_proj, lm_head",
        ),
        (["--documents=100,200"], "documents of 100, 200 tokens are 300 together"),
        (["--trained-tokens=1000"], "1000 trained tokens in a micro-batch of 2 x 256 tokens; give 1 to 512"),
    ],
)
def test_a_mistake_is_one_screen_with_the_way_out(
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert said in refused(capsys, *argv)


@pytest.mark.parametrize(
    "argv", [["--peak-tflops", "0", "--step-time-s", "1"], ["--convention"], ["-m"], ["--documents", "1,a"]]
)
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
