"""Results in the terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mfubench.report import to_markdown
from mfubench.result import Result
from mfubench.result.flat import run_records

Made = Callable[..., Result]
Text = Callable[..., str]


def test_what_all_runs_share_stands_above_and_what_differs_is_a_column(result: Made, text_of: Text) -> None:
    lines = text_of([result("batch_size=1"), result("batch_size=4", "mode=lora")]).splitlines()
    assert "framework hf_trainer" in lines[0] and "model llama-tiny" in lines[0]
    assert "batch " not in lines[0]
    header = next(line for line in lines if line.startswith("mode"))
    assert header.split()[:4] == ["mode", "rank", "batch", "status"]
    assert sum("200 ms" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("overrides", "heading"),
    [
        ("+framework.native.optim=adafactor", "native.optim"),
        ("mode.dropout=0", "mode.dropout"),
        ("model.architecture.num_hidden_layers=2", "architecture.num_hidden_layers"),
        ("measurement.steps=8", "measurement.steps"),
    ],
)
def test_rows_that_differ_in_anything_show_in_what(result: Made, text_of: Text, overrides: str, heading: str) -> None:
    assert heading in text_of([result("mode=lora"), result("mode=lora", overrides)], width=200)
    assert heading not in text_of([result("mode=lora"), result("mode=full", "model=qwen3-8b")], width=200)


def test_lengths_of_measurement_and_commits_are_settings_of_their_own(result: Made, text_of: Text) -> None:
    assert "measurement default" in text_of([result()], width=400)
    lengths = text_of([result(f"measurement={name}") for name in ("quick", "default", "thorough")], width=400)
    assert lengths.count("200 ms") == 3 and "thorough" in lengths
    of = [{"mfubench": "0.1.0", "commit": commit} for commit in ("a" * 40, "b" * 40 + "-dirty")]
    commits = text_of([result(provenance=each) for each in of], width=400)
    assert commits.count("200 ms") == 2 and "0.1.0 aaaaaaaaa" in commits and "0.1.0 bbbbbbbbb dirty" in commits


def test_a_native_key_of_the_users_is_never_hidden_behind_the_setting_it_replaces(result: Made, text_of: Text) -> None:
    assert "native.optim adafactor" in text_of([result("+framework.native.optim=adafactor")], width=400)


def test_figures_are_printed_with_their_interval_and_in_percent(result: Made, text_of: Text) -> None:
    text = text_of([result()])
    for cell in ("200 ms ±5.0%", "2,560", "0.0512", "40.0 ±2.0%", "38.0%", "42.0%", "39.0%", "1.50 GiB"):
        assert cell in text
    assert "A chip: peak 0.128 TFLOP/s in fp32, a data sheet" in text


def test_the_price_of_a_million_tokens_is_a_column_if_a_price_was_given(result: Made, text_of: Text) -> None:
    free = result("batch_size=1")
    assert "US$" not in text_of([free])
    paid = result("batch_size=4", measurement={"usd_per_million_tokens": 1234.5})
    assert "US$/M tokens" in text_of([paid]) and "1,234" in text_of([paid])
    assert "US$ per" in text_of([free, paid]) and "US\\$/M tokens" in to_markdown.markdown_text([free, paid])
    assert {row["usd_per_million_tokens"] for row in run_records([free, paid])} == {None, 1234.5}


def test_peaks_that_were_measured_are_one_line_with_their_range(result: Made, text_of: Text) -> None:
    known = result().hardware
    assert known is not None
    runs = [result(hardware={"peak_measured": True, "peak_flops_per_second": p}) for p in (0.1e12, 0.12e12)]
    text = text_of(runs)
    assert text.count("A chip") == 1
    assert "A chip: peak 0.1–0.12 TFLOP/s in fp32, measured before each run" in text


def test_a_table_is_not_folded_on_a_narrow_terminal(result: Made, text_of: Text) -> None:
    lines = text_of([result("batch_size=1"), result("batch_size=4")], width=60).splitlines()
    assert sum("200 ms ±5.0%" in line and "39.0%" in line and "1.50 GiB" in line for line in lines) == 2


def test_a_run_that_is_not_ok_shows_its_reason_and_no_figures(result: Made, text_of: Text) -> None:
    bad = result(name="b-run", status="failed", reason="exit status 1", measurement=None, withheld=result().measurement)
    text = text_of([result("batch_size=1"), bad])
    row = next(line for line in text.splitlines() if "failed" in line)
    assert "%" not in row
    assert "batch 2: failed: exit status 1" in text
    assert "b-run: failed: exit status 1" in text_of([bad])


def test_a_step_counted_in_the_frameworks_process_is_a_line_of_its_run(result: Made, text_of: Text) -> None:
    counted = {"flops": 2.02e12, "expected_flops": 2e12, "apart": 0.01}
    assert "2.02 TFLOP in a step, +1.0% from 2" in text_of([result(in_situ=counted)])
    for hidden in (None, {"flops": None, "apart": None}):
        assert "in situ" not in text_of([result(in_situ=hidden)])


def test_a_reason_that_runs_share_is_given_once(result: Made, text_of: Text) -> None:
    refused = {"status": "unsupported", "reason": "no such kernel", "measurement": None}
    text = text_of([result("seed=1", **refused), result("seed=2", **refused), result("seed=3")])
    assert text.count("no such kernel") == 1 and "seed 1; seed 2: unsupported: no such kernel" in text


def test_the_engine_stands_beside_the_framework(result: Made, text_of: Text) -> None:
    text = text_of(
        [result(framework="tool (open stack)", engine="open-stack"), result(framework="tool", engine="tool")]
    )
    assert [line.split("  ")[0] for line in text.splitlines() if " ok " in line] == [
        "tool (open stack)",
        "tool",
    ]


def test_the_kernels_of_liger_that_were_asked_for_are_named(result: Made, text_of: Text) -> None:
    assert "liger off" in text_of([result()])
    kernels = "liger rope, rms_norm, swiglu, fused_linear_cross_entropy"
    assert kernels in " ".join(text_of([result("liger_kernel=true")]).split())


def test_padding_is_shown_where_there_is_some(result: Made, text_of: Text) -> None:
    padded = result("seed=1", measurement={"padding_fraction": 0.125})
    assert "padding" not in text_of([result()]) and "padding" not in text_of([result("seed=1"), result("seed=2")])
    assert "padding" in text_of([padded]) and "12.5%" in text_of([padded])
    assert "12.5%" in text_of([padded, result("seed=2")])


def test_what_was_left_to_the_framework_is_not_shown_as_asked(result: Made, text_of: Text) -> None:
    printed = text_of([result(), result("comparison=defaults")])
    assert "its own" in printed and "checkpointing" in printed
    both_columns = next(line for line in printed.splitlines() if "optimizer" in line and "status" in line)
    assert "attention" in both_columns
