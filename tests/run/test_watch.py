"""A user's own command, watched: real scripts in real processes, their FLOPs against hand counts, their own stopwatch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mfubench.config.schema import MISSING
from mfubench.plan.watched import nothing_asked
from mfubench.report.__main__ import main as report
from mfubench.result.flat import leaves
from mfubench.watch import compose_settings, main

TRAINERS = Path(__file__).parents[1] / "trainers"
LOOP, LIBRARIES = TRAINERS / "own_loop.py", TRAINERS / "own_trainers.py"
WATCH = (sys.executable, "-m", "mfubench.watch", "hardware=cpu", "measurement.warmup_steps=3")
PEAK = "hardware.peak_flops_per_second=1e12"  # instead of a measured one, which takes seconds
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
# Micro-batches of 2 x 32 positions; two blocks of width 64; attention of 4 heads of 16 channels, forward and backward (x 3).
ATTENTION = 2 * 3 * 2 * (2 * 4 * 32 * 32 * (16 + 16))
OF_LLAMA = 6 * 64 * (2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128) + 64 * 512) + ATTENTION
OF_OWN_GPT = 6 * 64 * (2 * (4 * 64 * 64 + 8 * 64 * 64) + 64 * 512) + ATTENTION


def watch(folder: Path, command: tuple[object, ...], *settings: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Watch a command in a folder to its end; its result, too."""
    argv = [
        *WATCH,
        PEAK,
        *(settings if "tracking=wandb" in settings else ("tracking=none", *settings)),
        "--",
        *map(str, command),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done, result_below(folder)


def result_below(folder: Path) -> Any:
    (path,) = (folder / "outputs").rglob("result.json")
    return json.loads(path.read_text())


def own_seconds(output: str) -> list[float]:
    """The step times that the script printed itself."""
    return [float(text) for text in re.findall(r"took ([\d.]+) s", output)]


def test_a_plain_loop_is_measured_and_its_output_is_its_own(tmp_path: Path) -> None:
    done, result = watch(tmp_path, (sys.executable, LOOP, "--steps", 24, "--sleep", 0.02), "name=mine")
    assert done.returncode == 0, done.stderr
    assert len(own_seconds(done.stdout)) == 24 and "MFU" not in done.stdout  # the table is on standard error
    assert "step time" in done.stderr and "MFU" in done.stderr
    assert (result["status"], result["name"]) == ("ok", "mine-LlamaForCausalLM-full")
    settings, m = result["settings"], result["measurement"]
    assert (settings["batch_size"], settings["sequence_length"], settings["gradient_accumulation_steps"]) == (2, 32, 1)
    assert (settings["attention"], settings["optimizer"], settings["parallelism"]["name"]) == (
        "sdpa",
        "adamw_torch",
        "single",
    )
    assert settings["model"]["architecture"]["num_hidden_layers"] == 2
    assert result["flops"]["model_flops"] == OF_LLAMA
    assert result["in_situ"]["apart"] == 0 and result["second_count"]["apart"] == 0
    assert {warning["kind"] for warning in result["warnings"]} <= {"busy_machine", "not_steady", "imprecise"}
    assert m["stopped_because"] == "end" and m["warmup_steps"] + m["steps"] == 23
    measured = own_seconds(done.stdout)[m["warmup_steps"] : 23]
    assert m["step_time_s"] == pytest.approx(sum(measured) / len(measured), rel=0.02)
    assert m["mfu"] == pytest.approx(OF_LLAMA / m["step_time_s"] / 1e12)


def test_a_model_without_a_config_is_counted_in_its_process(tmp_path: Path) -> None:
    done, result = watch(tmp_path, (sys.executable, LOOP, "--model", "own", "--accumulate", 2))
    assert (done.returncode, result["status"]) == (0, "ok"), done.stderr
    flops, m = result["flops"], result["measurement"]
    assert flops["model_flops"] == 2 * OF_OWN_GPT
    assert flops["hardware_flops"] == 2 * (OF_OWN_GPT + ATTENTION // 6)  # the fused kernel's backward is 2.5 forwards
    assert flops["model_flops_causal"] is m["mfu_causal"] is m["hfu_causal"] is None
    assert m["mfu"] == pytest.approx(2 * OF_OWN_GPT / m["step_time_s"] / 1e12)
    (warning,) = (w["text"] for w in result["warnings"] if w["kind"] == "unknown")
    assert "OwnGPT has no config" in warning and "not known: model flops causal, hardware flops causal" in warning


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lora", "frozen"])
def test_what_is_trained_decides_the_mode_and_the_flops(tmp_path: Path, model: str) -> None:
    _, result = watch(tmp_path, (sys.executable, LOOP, "--model", model))
    assert result["status"] == "ok"
    mode, flops = result["settings"]["mode"], result["flops"]["model_flops"]
    if model == "frozen":  # the embedding, which multiplies nothing; the first norm still needs its output's gradient
        assert mode["name"] == "partly frozen" and flops == OF_LLAMA
        return
    assert (mode["name"], mode["rank"], mode["alpha"], mode["target_modules"]) == ("lora", 4, 8, ["q_proj", "v_proj"])
    base = 2 * 64 * (2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128) + 64 * 512)  # forward
    of_lora, first_inputs = 2 * 64 * 2 * 4 * ((64 + 64) + (64 + 32)), 2 * 64 * (64 * 64 + 2 * 64 * 32 + 2 * 64 * 4)
    # Forward, gradients of what is trained, and of all inputs but those that come before any LoRA.
    assert flops == 2 * base + 3 * of_lora - first_inputs + ATTENTION
    assert result["in_situ"]["apart"] == 0


@pytest.mark.slow
def test_micro_batches_of_other_shapes_than_the_counted_one_have_no_flops(tmp_path: Path) -> None:
    _, result = watch(tmp_path, (sys.executable, LOOP, "--model", "own", "--lengths", 16, 32, "--steps", 12))
    assert result["status"] == "ok" and result["measurement"]["mfu"] is result["measurement"]["hfu"] is None
    assert result["measurement"]["tokens_per_second_per_device"] > 0


@pytest.mark.slow
def test_two_ranks_under_torchrun_are_ddp(tmp_path: Path) -> None:
    done, result = watch(tmp_path, (sys.executable, *TORCHRUN, LOOP, "--checkpointing"))
    assert (done.returncode, result["status"]) == (0, "ok"), done.stderr
    settings = result["settings"]
    assert (settings["parallelism"]["name"], settings["parallelism"]["num_devices"]) == ("ddp", 2)
    assert settings["gradient_checkpointing"]["name"] == "non_reentrant"
    assert result["flops"]["model_flops"] == OF_LLAMA < result["flops"]["hardware_flops"]
    assert result["measurement"]["tokens_per_second_per_device"] == pytest.approx(
        64 / result["measurement"]["step_time_s"]
    )


def test_a_command_that_fails_is_failed_and_its_exit_status_is_passed_on(tmp_path: Path) -> None:
    done, result = watch(tmp_path, (sys.executable, LOOP, "--fail-at", 6))
    assert done.returncode == 1 and 'KeyError: "the user\'s own mistake"' in done.stderr
    assert result["status"] == "failed" and result["reason"].startswith("exit status 1, 6 step periods recorded")
    assert result["measurement"] is None and result["withheld"]["steps"] == 3


def test_a_program_that_trains_nothing_has_no_records(tmp_path: Path) -> None:
    done, result = watch(tmp_path, (sys.executable, LOOP, "--model", "none"))
    assert done.returncode == 3 and done.stdout == "nothing to train here\n"
    assert (result["status"], result["settings"]["model"]["name"]) == ("no_records", "unknown")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "launcher", "parallelism"),
    [
        ("trainer", (), "single"),
        ("accelerate", (), "single"),
        ("lightning", (), "single"),  # it gives its optimizer a closure: the last forward is inside the step
        ("deepspeed", TORCHRUN, "zero2"),
        ("accelerate", TORCHRUN, "ddp"),
    ],
)
def test_libraries_that_train_are_seen_through(
    tmp_path: Path, library: str, launcher: tuple[str, ...], parallelism: str
) -> None:
    done, result = watch(tmp_path, (sys.executable, *launcher, LIBRARIES, library, "--steps", 12))
    assert (done.returncode, result["status"]) == (0, "ok"), done.stderr
    settings, m = result["settings"], result["measurement"]
    assert (settings["parallelism"]["name"], settings["mode"]["name"]) == (parallelism, "full")
    assert (settings["batch_size"], settings["sequence_length"], settings["gradient_accumulation_steps"]) == (2, 32, 2)
    assert result["flops"]["model_flops"] == 2 * OF_LLAMA and result["in_situ"]["apart"] == 0
    assert (m["forward_to_optimizer_s"] is None) == (library == "lightning")
    first = m["warmup_steps"]
    if not launcher:  # else the lines are of both ranks
        own = own_seconds(done.stdout)[-12:][first : first + m["steps"]]
        assert m["step_time_s"] == pytest.approx(sum(own) / len(own), rel=0.25)  # a boundary elsewhere in the step


@pytest.mark.slow
def test_a_watched_result_is_in_every_report_and_in_w_and_b(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, result = watch(tmp_path, (sys.executable, LOOP, "--model", "own"), "tracking=wandb", "tracking.mode=offline")
    assert list((tmp_path / "outputs").rglob("wandb/offline-run-*"))
    for form in ("table", "csv", "json", "markdown", "html"):
        assert report([str(tmp_path), "--format", form]) == 0
        printed = capsys.readouterr()
        assert result["settings"]["model"]["name"] in printed.out and not printed.err


@pytest.mark.slow
def test_it_ends_after_the_steps_asked_for(tmp_path: Path) -> None:
    done, result = watch(tmp_path, (sys.executable, LOOP, "--steps", 100000), "--steps", "5")
    assert (done.returncode, result["status"], result["stopped_by"]) == (0, "ok", "mfubench")
    assert result["measurement"]["steps"] == 5 and result["measurement"]["stopped_because"] == "steps"


@pytest.mark.slow
def test_ctrl_c_reaches_the_command_and_gives_what_was_measured(tmp_path: Path) -> None:
    argv = [*WATCH, PEAK, "tracking=none", "--", sys.executable, str(LOOP), "--steps", "100000"]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "step 12 " not in process.stdout.readline():
        time.sleep(0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    result = result_below(tmp_path)
    assert "KeyboardInterrupt" in errors and process.returncode == 0
    assert (result["status"], result["stopped_by"]) == ("ok", "user")
    assert result["measurement"]["stopped_because"] == "user"


def test_every_setting_of_a_command_that_was_not_seen_yet_has_a_value() -> None:
    values = dict(leaves(asdict(nothing_asked(compose_settings([]), "mine", ["python", "train.py"]))))
    assert MISSING not in values.values() and values["framework.name"] == "mine"


@pytest.mark.parametrize(
    ("typed", "try_this"),
    [
        ("tracking=non -- python train.py", "python -m mfubench.watch tracking=none -- python train.py"),
        ("tracking=none python train.py", "python -m mfubench.watch tracking=none -- python train.py"),
        ("measurment=quick -- python t.py", "python -m mfubench.watch measurement=quick -- python t.py"),
        ("tracking=none", "python -m mfubench.watch tracking=none -- python train.py"),
        ("--steps 5 python t.py --lr 3", "python -m mfubench.watch --steps 5 -- python t.py --lr 3"),
    ],
)
def test_a_slip_gets_one_screen_with_the_right_command(
    typed: str, try_this: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(typed.split()) == 2
    screen = capsys.readouterr().err
    assert screen.splitlines()[-1].split("try ")[1].strip() == try_this and len(screen.splitlines()) <= 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "typed", ["batch_size=4 -- python train.py", "-- pyhton train.py", "experiment=batch-size -- python t.py"]
)
def test_what_the_command_decides_itself_can_t_be_set(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed.split()) == 2
    screen = capsys.readouterr().err
    assert screen.startswith("mfubench: ") and "expected" in screen and len(screen.splitlines()) == 3
