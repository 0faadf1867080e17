"""The whole path, for real: a command line in, a trained model's measurement out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from architectures import SMALLER

# A smaller model than the default, and few steps: these tests are about the path, not about the figures.
SMALL = (
    "measurement=quick",
    *SMALLER,
)
PROFILED = ("measurement.profile_flops=true", "measurement.warmup_steps=3")
COMMAND = [sys.executable, "-m", "mfubench"]


def mfubench(folder: Path, *overrides: str, small: bool = True) -> subprocess.CompletedProcess[str]:
    """The command in a folder of its own, to its end."""
    argv = [*COMMAND, *(SMALL if small else ()), *overrides]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


def results_below(folder: Path) -> list[dict[str, Any]]:
    """Every result.json, in the order of the runs."""
    return [json.loads(path.read_text()) for path in sorted((folder / "outputs").rglob("result.json"))]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One full fine-tune with accumulation, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("full")
    return folder, mfubench(folder, "gradient_accumulation_steps=2", "seed=5", *PROFILED)


def test_a_full_fine_tune_is_measured(full: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = full
    assert done.returncode == 0, done.stderr
    (result,) = results_below(folder)
    assert (result["status"], result["reason"], result["group"]) == ("ok", None, None)
    m, flops, hardware = result["measurement"], result["flops"], result["hardware"]
    assert m["steps"] == 8 and m["warmup_steps"] == 3
    assert len(result["step_times_s"]["0"]) >= 11
    # The figures are each other's: worked out again from the series and the FLOPs.
    series = result["step_times_s"]["0"][3:11]
    mean = sum(series) / 8
    assert m["step_time_s"] == pytest.approx(mean)
    assert m["mfu"] == pytest.approx(flops["model_flops"] / mean / hardware["peak_flops_per_second"])
    assert m["hfu"] == pytest.approx(flops["hardware_flops"] / mean / hardware["peak_flops_per_second"])
    assert m["tokens_per_second_per_device"] == pytest.approx(2 * 2 * 64 / mean)
    assert (m["positions_per_step"], m["real_tokens_per_step"], m["trained_tokens_per_step"]) == (256, 256, 256)
    assert hardware["peak_measured"] and hardware["precision"] == "fp32"


def test_the_time_that_a_run_held_its_devices_is_split_into_four(
    full: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    (result,) = results_below(full[0])
    m, series = result["measurement"], result["step_times_s"]["0"]
    parts = {name: value for name, value in m.items() if name.startswith("device_seconds_")}
    assert sum(parts.values()) == pytest.approx(m["device_seconds"]) == pytest.approx(result["outcome"]["wall_s"])
    assert parts["device_seconds_warmup"] == pytest.approx(sum(series[:3]))
    assert parts["device_seconds_measured"] == pytest.approx(sum(series[3:11]))
    assert parts["device_seconds_before_first_step"] > 1 and parts["device_seconds_after"] > 0  # torch is imported


def test_three_counts_of_a_step_are_one_figure(full: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    (result,) = results_below(full[0])
    flops = result["flops"]
    totals = ("model_flops", "model_flops_causal", "hardware_flops", "hardware_flops_causal")
    assert {name: result["second_count"]["figures"][name] for name in totals} == {name: flops[name] for name in totals}
    assert result["second_count"]["apart"] == 0
    assert (result["in_situ"]["flops"], result["in_situ"]["uncounted"]) == (flops["hardware_flops"], {})
    assert f"{flops['hardware_flops'] / 1e12:.4g} TFLOP in a step, +0.0% from" in full[1].stdout


def test_the_work_that_was_done_is_in_the_result(full: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    (result,) = results_below(full[0])
    work = result["work"]
    assert (
        work["trainable_parameters"]
        == work["trainable_parameters_with_gradient"]
        == result["flops"]["trainable_parameters"]
    )
    assert (work["world_size"], work["recomputation"], work["compiled"]) == (1, "none", False)
    assert work["optimizers"][0]["class"] == "AdamW" and work["optimizers"][0]["fused"]
    assert work["attention"]["implementation"] == "sdpa" and work["attention"]["sdpa_causal_calls"] > 0


def test_the_result_can_be_repeated_from_what_it_holds(full: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    (result,) = results_below(full[0])
    assert result["settings"]["seed"] == 5
    assert "seed: 5" in result["plan"]["config"]
    assert result["provenance"]["framework_environment"]["torch"] == result["provenance"]["counted_with"]["torch"]


def test_the_run_folder_holds_what_the_readme_says_and_no_more(
    full: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run = next((full[0] / "outputs").rglob("result.json")).parent
    names = {path.name for path in run.iterdir()}
    assert names == {".hydra", "result.json", "plan.json", "hf_trainer.yaml", "framework.log", "records", "wandb"}
    assert [path.name for path in full[0].iterdir()] == ["outputs"]
    assert [path.name for path in (run / "records").iterdir()] == ["rank0.jsonl"]


def test_the_table_is_printed_and_printed_again_by_the_report(
    full: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = full
    again = subprocess.run(
        [sys.executable, "-m", "mfubench.report", "outputs"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert again.stdout == done.stdout
    assert "MFU causal" in done.stdout and "Traceback" not in done.stderr


def test_a_run_says_its_stages_with_their_seconds_and_then_where_the_result_lies_and_what_to_do_next(
    full: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, done = full
    (path,) = (folder / "outputs").rglob("result.json")
    run, steps = path.parent.relative_to(folder), len(results_below(folder)[0]["step_times_s"]["0"])
    said, nothing, after = done.stderr.partition("\n\n")
    lines = [
        line for line in said.splitlines() if not line.startswith("random weights, ")
    ]  # said by the first run only
    assert nothing and [re.sub(r": \d+\.\d s$", "", line) for line in lines] == [
        "preparing the workload, counting its FLOPs",
        "measuring the CPU's peak",
        f"training, {steps} steps",
        "logging to W&B",
    ]
    assert after.splitlines() == [
        f"results  {run}",
        f"report   python -m mfubench.report {run} --format html --output report.html",
        f"upload   python -m mfubench.tracking {run}   (kept offline so far)",
    ]
    page = tmp_path / "page.html"
    command = [sys.executable, *after.splitlines()[1].split()[2:-1], str(page)]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert page.is_file() and shown.stderr == f"mfubench.report: written to {page}\n"


def test_the_offline_run_in_the_run_folder_is_what_wandb_shows(
    full: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    (result,) = results_below(full[0])
    (file,) = (full[0] / "outputs").rglob("offline-run-*/*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(file)]
    shown = json.loads(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)
    text = json.dumps(shown)
    assert f'"mfu": {result["measurement"]["mfu"]}' in text
    assert f'"profiled_tflop_per_step": {result["flops"]["hardware_flops"] / 1e12}' in text
    assert f'"profiled_in_situ_tflop_per_step": {result["in_situ"]["flops"] / 1e12}' in text
    assert '"gradient_accumulation_steps": 2' in text and result["name"] in text


def test_lora_with_checkpointing_trains_the_adapters_and_recomputes(tmp_path: Path) -> None:
    done = mfubench(tmp_path, "mode=lora", "mode.rank=4", "gradient_checkpointing=reentrant", *PROFILED)
    assert done.returncode == 0, done.stderr
    (result,) = results_below(tmp_path)
    # Rank 4 on seven projections of two layers; hidden 96, 6 heads of 16, 2 KV heads, intermediate 192.
    per_layer = 4 * ((96 + 96) + (96 + 32) + (96 + 32) + (96 + 96) + 2 * (96 + 192) + (192 + 96))
    assert result["work"]["trainable_parameters_with_gradient"] == 2 * per_layer
    assert result["work"]["recomputation"] == "reentrant"
    assert result["flops"]["hardware_flops"] > 1.05 * result["flops"]["model_flops"]
    assert result["in_situ"]["flops"] == result["flops"]["hardware_flops"]


def test_two_ranks_train_together_over_gloo(tmp_path: Path) -> None:
    done = mfubench(tmp_path, "parallelism=ddp", "parallelism.num_devices=2", *PROFILED)
    assert done.returncode == 0, done.stderr
    (result,) = results_below(tmp_path)
    assert result["work"]["world_size"] == 2
    assert "DistributedDataParallel" in result["work"]["parallel_wrappers"]
    assert {rank: len(times) >= 10 for rank, times in result["step_times_s"].items()} == {"0": True, "1": True}
    assert result["measurement"]["rank"] in (0, 1)
    assert result["in_situ"]["flops"] == result["flops"]["hardware_flops"]


def test_a_sweep_goes_through_to_its_end_and_prints_one_table(tmp_path: Path) -> None:
    done = mfubench(tmp_path, "-m", "sequence_length=64,4096", "attention=sdpa,flash_attention_2")
    assert done.returncode == 3, done.stderr
    results = results_below(tmp_path)
    assert [r["status"] for r in results] == ["ok", "unsupported", "unsupported", "unsupported"]
    assert "FlashAttention" in results[1]["reason"] and "2048 positions" in results[2]["reason"]
    assert len({r["group"] for r in results}) == 1 and results[0]["group"]
    table = done.stdout.splitlines()
    assert sum(" unsupported " in line and line.rstrip().endswith("–") for line in table) == 3
    said = done.stderr.splitlines()
    first = said.index("1 of 4 · sequence_length=64 attention=sdpa")
    second = next(
        line for line in said if line.startswith("2 of 4 · sequence_length=64 attention=flash_attention_2 · about ")
    )
    assert said[said.index(second) - 1].startswith("ok · step time ") and first < said.index(second)
    assert sum(line.startswith("unsupported · ") for line in said) == 3
    sweep = f"outputs/sweeps/{results[0]['group']}"
    assert (
        f"results  {sweep}" in said and f"upload   python -m mfubench.tracking {sweep}   (kept offline so far)" in said
    )


@pytest.mark.slow
def test_a_framework_that_fails_is_a_result_with_its_last_line(tmp_path: Path) -> None:
    done = mfubench(tmp_path, "+framework.native.no_such_key=1")
    assert done.returncode == 3
    (result,) = results_below(tmp_path)
    assert result["status"] == "failed" and "no_such_key" in result["reason"]
    assert (result["measurement"], result["withheld"]) == (None, None)
    assert "no_such_key" in done.stdout


def test_doing_other_work_than_asked_is_inconsistent_and_its_figures_are_withheld(tmp_path: Path) -> None:
    done = mfubench(tmp_path, "+framework.native.max_length=48")
    assert done.returncode == 3
    (result,) = results_below(tmp_path)
    assert result["status"] == "inconsistent"
    assert result["measurement"] is None and result["withheld"]["mfu"] > 0
    assert any("[2, 64]" in d["asked"] and "[2, 48]" in d["seen"] for d in result["differences"])
    assert f"{result['withheld']['mfu']:.1%}" not in done.stdout


def trained_by(variant: str) -> tuple[str, ...]:
    """Overrides that start tests/trainers/other_work.py from the same native config, beside a peak that is known: a CPU's
    would be measured before each run."""
    trainer = Path(__file__).parents[1] / "trainers" / "other_work.py"
    command = f"framework.command=['${{run.python}}','{trainer}','${{run.config_path}}','{variant}']"
    return command, "tracking=none", "hardware.peak_flops_per_second=1e12"


@pytest.mark.sample(3)
@pytest.mark.parametrize("variant", ["nothing else", "two optimizer steps", "evaluation in between"])
def test_another_trainer_that_does_the_same_work_is_ok(tmp_path: Path, variant: str) -> None:
    done = mfubench(tmp_path, *trained_by(variant))
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = results_below(tmp_path)
    assert (result["measurement"]["steps"], result["measurement"]["positions_per_step"]) == (8, 128)


def test_a_known_time_in_each_step_is_recovered(tmp_path: Path) -> None:
    done = mfubench(tmp_path, *trained_by("a quarter second more"))
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = results_below(tmp_path)
    assert min(result["step_times_s"]["0"]) > 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "overrides", "words"),
    [
        ("a quarter of the logits", (), "lm_head was computed for 32 of 128 positions"),
        ("compiled", ("torch_compile=true",), "torch.compile hides what it does"),
    ],
)
def test_a_step_counted_in_the_trainers_process_warns_of_what_it_did_not_do_or_hid(
    tmp_path: Path, variant: str, overrides: tuple[str, ...], words: str
) -> None:
    done = mfubench(tmp_path, *trained_by(variant), *overrides, *PROFILED)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = results_below(tmp_path)
    (warning,) = [each for each in result["warnings"] if "framework's own process" in each["text"]]
    assert words in warning["text"]
    assert words in " ".join(done.stdout.split())


@pytest.mark.slow
def test_two_counts_that_contradict_each_other_are_inconsistent_and_both_are_printed(tmp_path: Path) -> None:
    """A closed form that is a hundredth too high stands in for one that has forgotten something."""
    program = """
from dataclasses import replace
from mfubench.flops import crosscheck
from mfubench.__main__ import main
right = crosscheck.second_count
def wrong(experiment):
    return replace(right(experiment), model_flops=right(experiment).model_flops * 101 // 100)
crosscheck.second_count = wrong
raise SystemExit(main())
"""
    argv = [sys.executable, "-c", program, *SMALL, "tracking=none"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 3, done.stderr
    (result,) = results_below(tmp_path)
    assert (result["status"], result["measurement"]) == ("inconsistent", None)
    traced, closed = result["flops"]["model_flops"], result["second_count"]["figures"]["model_flops"]
    assert closed == traced * 101 // 100
    (difference,) = result["differences"]
    assert difference["what"].startswith("model_flops of a step")
    assert (difference["asked"], difference["seen"]) == (f"{closed:,} by closed form", f"{traced:,} traced")
    assert f"{closed:,}" in done.stdout and f"{traced:,}" in done.stdout


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    ("variant", "overrides", "words"),
    [
        ("bf16 for fp32", (), "dtype that the weights are multiplied in"),
        ("frozen later", (), "tensors with a gradient"),
        ("one tensor stepped", (), "stepped by an optimizer"),
        ("one thread", (), "threads"),
        ("another shape now and then", (), "[2, 8]"),
        ("eager under another name", (), "attention"),
        ("one block recomputed", ("gradient_checkpointing=non_reentrant",), "blocks recomputed"),
        ("more vocabulary", ("mode=lora",), "parameters"),
    ],
)
def test_a_trainer_that_does_other_work_is_inconsistent(
    tmp_path: Path, variant: str, overrides: tuple[str, ...], words: str
) -> None:
    done = mfubench(tmp_path, *trained_by(variant), *overrides)
    assert done.returncode == 3, done.stdout + done.stderr
    (result,) = results_below(tmp_path)
    assert (result["status"], result["measurement"]) == ("inconsistent", None)
    assert words in result["reason"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("mode=lora", "mode.target_modules=[nothing]"), "nothing"),
        (("sequence_length=4096",), "2048 positions"),
    ],
)
def test_what_the_model_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, overrides: tuple[str, ...], words: str
) -> None:
    done = mfubench(tmp_path, *overrides, "model=llama-tiny", small=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert results_below(tmp_path) == []


def test_more_devices_than_there_are_is_unsupported(tmp_path: Path) -> None:
    done = mfubench(tmp_path, "parallelism=ddp", "parallelism.num_devices=4096")
    assert done.returncode == 3
    (result,) = results_below(tmp_path)
    assert result["status"] == "unsupported" and "4096" in result["reason"]


@pytest.mark.slow
def test_weights_that_are_drawn_on_the_device_never_lie_on_the_disk(tmp_path: Path) -> None:
    done = mfubench(tmp_path, "framework.random_weights=device")
    assert done.returncode == 0, done.stderr
    (result,) = results_below(tmp_path)
    model = next(line for line in result["plan"]["config"].splitlines() if line.startswith("model_name_or_path"))
    assert not list(Path(model.partition(": ")[2]).glob("*.safetensors"))
    assert result["settings"]["framework"]["random_weights"] == "device"


def test_ctrl_c_after_enough_steps_keeps_the_measurement_and_leaves_no_process(tmp_path: Path) -> None:
    argv = [*COMMAND, *SMALL, "measurement.steps=5000", "measurement.minimum_steps=4"]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    records = _wait_for_steps(tmp_path, 12)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    (result,) = results_below(tmp_path)
    assert (result["status"], result["stopped_by"]) == ("ok", "user")
    assert 4 <= result["measurement"]["steps"] < 5000
    assert records.is_file() and family
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)


@pytest.mark.slow
def test_ctrl_c_twice_ends_it_at_once_and_still_writes_the_result(tmp_path: Path) -> None:
    argv = [*COMMAND, *SMALL, "measurement.steps=5000", "measurement.minimum_steps=4000", "tracking=none"]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for_steps(tmp_path, 3)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    (result,) = results_below(tmp_path)
    assert (result["status"], result["stopped_by"], result["measurement"]) == ("interrupted", "user", None)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)


def test_a_folder_that_holds_a_run_is_refused(full: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run = next((full[0] / "outputs").rglob("result.json")).parent
    before = (run / "result.json").read_bytes()
    done = mfubench(full[0], f"hydra.run.dir={run}")
    assert done.returncode == 2 and "there is a run in this folder already" in done.stderr
    assert (run / "result.json").read_bytes() == before


def _wait_for_steps(folder: Path, steps: int) -> Path:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for path in folder.rglob("rank0.jsonl"):
            if path.read_text().count('"step"') > 2 * steps:
                return path
        time.sleep(0.2)
    raise AssertionError(f"no {steps} steps in {os.listdir(folder)}")
