"""Results in the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from mfubench.measure.metric_table import COLUMNS
from mfubench.report import to_markdown
from mfubench.report.cells import MEANINGS
from mfubench.result import Result
from mfubench.result.flat import run_records

Made = Callable[..., Result]
Text = Callable[..., str]


def row_of(text: str, name: str) -> list[str]:
    """The cells of the first row of that name, between columns of at least two spaces."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name}  "))
    return re.split(r"\s{2,}", line.strip())


def test_what_all_runs_share_stands_above_and_what_differs_is_in_the_names(result: Made, text_of: Text) -> None:
    text = text_of([result("batch_size=1"), result("batch_size=4", "mode=lora")])
    lines = text.splitlines()
    assert "framework hf_trainer" in lines[0] and "model llama-tiny" in lines[0]
    assert "batch " not in lines[0]
    assert row_of(text, "hf_trainer full · batch 1")[1:3] == ["ok", "200 ms ±5.0%"]
    assert row_of(text, "hf_trainer lora · batch 4")[1:3] == ["ok", "200 ms ±5.0%"]


def test_status_and_figures_come_before_the_settings_that_no_name_tells(result: Made, text_of: Text) -> None:
    text = text_of([result(), result("mode=lora"), result("mode=lora", "liger_kernel=true", framework="tool")], 250)
    header = next(line for line in text.splitlines() if line.startswith("setting"))
    assert header.split()[:6] == ["setting", "status", "time", "per", "device", "MFU"]
    assert header.split()[-1] == "liger" and "rank 8" in text
    assert [row_of(text, name)[-1] for name in ("hf_trainer full", "hf_trainer lora", "tool lora")] == [
        "off",
        "off",
        "4 of 5",
    ]


def test_kernels_of_liger_as_many_as_others_are_named(result: Made, text_of: Text) -> None:
    kernels = [("liger.rope=false",), ("liger.rms_norm=false",)]
    text = text_of([result("liger_kernel=true", *each) for each in kernels], 250)
    assert "hf_trainer full · liger rope, swiglu, fused_linear_cross_entropy " in text and " of 5" not in text


def test_a_value_that_most_have_is_not_in_the_names_but_in_a_column(result: Made, text_of: Text) -> None:
    text = text_of([result(), result("mode=lora"), result("torch_compile=true")], 250)
    assert [row_of(text, name)[-1] for name in ("hf_trainer full", "hf_trainer full · compile on")] == [
        "off",
        "on",
    ]


def test_how_long_was_measured_is_in_the_names_and_no_column(result: Made, text_of: Text) -> None:
    text = text_of([result("measurement.steps=8"), result("measurement=quick")], 250)
    assert "hf_trainer full · measurement default" in text
    assert not any("measurement" in line or "steps" in line for line in text.splitlines() if line.startswith("setting"))


def test_the_runs_of_sweeps_and_of_days_are_tables_of_their_own_the_newest_first(
    repeats: Callable[..., list[Result]], result: Made, text_of: Text
) -> None:
    def at(day: int) -> str:
        return f"2026-01-{day:02}T10:00:00+00:00"

    study = {"overrides": ["experiment=batch-size", "batch_size=2"]}
    runs = [
        *repeats(seconds=[0.2, 0.21], group="sweeps/a", started_at=at(3), provenance=study),
        result(started_at=at(1)),
        *repeats(seconds=[0.2, 0.21], group="sweeps/b", started_at=at(4)),
        result("measurement=quick", started_at=at(1)),
    ]
    text = text_of(runs)
    titles = [line for line in text.splitlines() if line.startswith(("Sweep", "Single"))]
    assert titles == ["Sweep sweeps/b", "Sweep sweeps/a · experiment=batch-size", "Single runs of 2026-01-01"]
    assert "relative to" not in text and text.count("MFU: FLOPs") == 1


def test_every_column_is_explained_and_no_other(result: Made, text_of: Text) -> None:
    plain, padded = text_of([result()]), text_of([result(measurement={"padding_fraction": 0.1, "of_ceiling": 0.5})])
    for explained in ("padding: ", "of ceiling: "):
        assert explained not in plain and explained in padded
    assert "MFU causal, HFU causal: without the half" in plain
    assert "±: 95" in plain and "±" not in text_of([result(measurement={"ci95": {}, "relative_half_width": None})])
    assert MEANINGS.keys() == COLUMNS.keys() and max(map(len, padded.splitlines()[-12:])) <= 100


def test_a_warning_that_many_rows_have_is_one_line(result: Made, text_of: Text) -> None:
    text_of_warning = "the mean step time is only known to ±{}%, so are all figures, and " + "more of it " * 20
    runs = [
        result(f"seed={seed}", warnings=[{"kind": "imprecise", "text": text_of_warning.format(seed)}])
        for seed in range(5)
    ]
    (line,) = (line for line in text_of(runs, 100).splitlines() if "only known" in line)
    assert line.startswith("all: the mean step time is only known to ±0%") and line.endswith("…") and len(line) == 100
    (line,) = (line for line in text_of([*runs, result("seed=9")], 100).splitlines() if "only known" in line)
    assert line.startswith("hf_trainer full · seed 0 and 4 more: the mean")


def test_a_limit_of_the_devices_that_all_rows_have_is_one_line_whichever_devices_they_are(
    result: Made, text_of: Text
) -> None:
    said = "GPU {} (GPU-{}f-3a) is limited to 500 W, where 700 W are its default"
    runs = [
        result(f"batch_size={b}", warnings=[{"kind": "power_capped", "text": said.format(g, b)} for g in range(2)])
        for b in (1, 2)
    ]
    (line,) = (line for line in text_of(runs, 200).splitlines() if "limited to" in line)
    assert line.startswith("all: GPU 0 (GPU-1f-3a) is limited to 500 W")


def test_a_rate_has_no_exponent_and_nothing_no_sign(result: Made, text_of: Text) -> None:
    fast = {"model_tflops_per_second_per_device": 1193.7, "mfu": -0.0001}
    text = text_of([result(measurement=fast, in_situ={"flops": 1.0, "expected_flops": 1e16, "apart": -1e-5})])
    assert "1,190" in text and "10,000 TFLOP" in text and "e+" not in text
    assert "+0.0% from" in text and "-0.0%" not in text


def test_a_peak_measured_on_several_ranks_says_how_many_threads_each_had(result: Made, text_of: Text) -> None:
    plan = {"num_ranks": 2, "environment": {"OMP_NUM_THREADS": "1"}}
    text = text_of([result("parallelism=zero2", plan=plan, hardware={"peak_measured": True})])
    assert "measured before each run, 1 thread(s) a rank" in text


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


def test_a_table_is_split_and_not_folded_on_a_narrow_terminal(result: Made, text_of: Text) -> None:
    lines = text_of([result("batch_size=1"), result("batch_size=4")], width=60).splitlines()
    assert max(map(len, lines)) <= 60 and sum("200 ms ±5.0%" in line for line in lines) == 2
    assert [line.split()[-1] for line in lines if line.endswith("39.0%")] == ["39.0%"] * 2
    headers = [line.split() for line in lines if line.startswith("setting")]
    assert len(headers) > 1 and all(header[0] == "setting" for header in headers)


def test_the_headline_figures_fit_into_100_columns(result: Made, text_of: Text) -> None:
    """With names of 40 letters; the settings stand in a table of their own."""
    runs = [result(f"optimizer={name}", framework="another tool") for name in ("adamw_torch", "sgd", "adafactor")]
    runs += [result("optimizer=sgd", "liger_kernel=true", framework="a tool")]
    text = text_of(runs, 100)
    assert max(map(len, text.splitlines())) <= 100
    headers = [line.split() for line in text.splitlines() if line.startswith("setting")]
    assert headers[0][:7] == ["setting", "status", "time", "per", "device", "MFU", "HFU"]
    assert headers[-1] == ["setting", "liger"]


def test_a_run_that_is_not_ok_shows_its_reason_and_no_figures(result: Made, text_of: Text) -> None:
    bad = result(name="b-run", status="failed", reason="exit status 1", measurement=None, withheld=result().measurement)
    text = text_of([result("batch_size=1"), bad])
    row = next(line for line in text.splitlines() if "failed" in line)
    assert "%" not in row
    assert "hf_trainer full · batch 2: failed: exit status 1" in text
    assert "hf_trainer llama-tiny full: failed: exit status 1" in text_of([bad])


def test_a_step_counted_in_the_frameworks_process_is_a_line_of_its_run(result: Made, text_of: Text) -> None:
    counted = {"flops": 2.02e12, "expected_flops": 2e12, "apart": 0.01}
    assert "2.02 TFLOP in a step, +1.0% from 2" in text_of([result(in_situ=counted)])
    for hidden in (None, {"flops": None, "apart": None}):
        assert "in situ" not in text_of([result(in_situ=hidden)])


def test_a_reason_that_runs_share_is_given_once(result: Made, text_of: Text) -> None:
    refused = {"status": "unsupported", "reason": "no such kernel", "measurement": None}
    text = text_of([result("seed=1", **refused), result("seed=2", **refused), result("seed=3")])
    assert text.count("no such kernel") == 1 and "seed 1; hf_trainer full · seed 2: unsupported: no such kernel" in text


def test_the_engine_stands_beside_the_framework(result: Made, text_of: Text) -> None:
    text = text_of(
        [result(framework="tool (open stack)", engine="open-stack"), result(framework="tool", engine="tool")]
    )
    assert [line.split("  ")[0] for line in text.splitlines() if " ok " in line] == [
        "tool (open stack) full",
        "tool full",
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
    assert "hf_trainer full · checkpointing its own" in printed
    assert all(name in printed for name in ("attention", "optimizer"))
