"""The doctor: what it says of this machine and of each framework is what a run would say."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mfubench.config import Experiment, Framework
from mfubench.doctor import here
from mfubench.doctor.__main__ import main
from mfubench.doctor.matrix import MatrixCell, at_best_precision, matrix
from mfubench.files.paths import LAUNCHERS
from mfubench.hardware import machine
from mfubench.hardware.machine import Gpu, Machine

Compose = Callable[..., Experiment]

CPU = Machine("cpu", "A CPU", 2, 2, True, None, 24 * 2**30)
A100 = Machine("cuda", "NVIDIA A100-SXM4-80GB", 4, 16, True, "580", 80 * 2**30)
TINY = Framework(
    name="tiny",
    python=None,
    command=["tiny", "${run.config_path}"],
    environment={},
    config_file="tiny.yaml",
    random_weights="disk",
    loss="mean",
    base={"batch": "${batch_size}"},
    when={
        "mode": {"full": {}, "lora": {"targets": "${mode.target_modules}"}},
        "precision": {"bf16_pure": {}, "fp32": {}},
        "optimizer": {"adamw_torch_fused": {}, "sgd": {}},
        "liger_kernel": {False: {}, True: {}},
    },
    unsupported=[
        {"liger_kernel": True, "device": "cpu", "because": "it needs a GPU"},
        {"mode": "lora", "optimizer": "sgd", "because": "it has no such thing"},
    ],
    native={},
)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the command prints for machines; the device named, so that this machine's doesn't matter."""
    command = [sys.executable, "-m", "mfubench.doctor", "hardware=cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    findings: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (3 if findings["problems"] else 0)
    return findings


def cells(compose: Compose, on: Machine) -> dict[tuple[str, str], MatrixCell]:
    """The matrix of the tiny framework, by setting and value."""
    experiment = replace(compose(), framework=TINY)
    modes = {name: compose(f"mode={name}").mode for name in ("full", "lora")}
    options: dict[str, dict[str, Any]] = {
        "mode": modes,
        "parallelism": {"single": experiment.parallelism, "ddp": compose("parallelism=ddp").parallelism},
        "gradient_checkpointing": {},
        "data": {"jsonl": compose("data=jsonl").data},
    }
    return {(row.setting, row.value): row.cells["tiny"] for row in matrix({"tiny": experiment}, options, on)}


def test_a_cell_says_in_which_modes_a_framework_runs_here_and_where_else(compose: Compose) -> None:
    of = cells(compose, CPU)
    assert of["mode", "lora"] == MatrixCell(["lora"], [], {})
    assert of["optimizer", "sgd"] == MatrixCell(
        ["full"], [], {"lora": "with mode=lora, optimizer=sgd: it has no such thing"}
    )
    assert of["liger_kernel", "true"] == MatrixCell([], ["full", "lora"], {})
    assert of["lora_on_lm_head", "true"] == MatrixCell(["lora"], [], {})
    reason = "has no way to set parallelism=ddp; it runs with single"
    assert of["parallelism", "ddp"] == MatrixCell([], [], {"full": reason, "lora": reason})


def test_what_needs_another_precision_than_auto_runs_and_says_so(compose: Compose) -> None:
    reason = "does not support precision=bf16; it supports bf16_pure, fp32"
    of = cells(compose, A100)
    assert of["mode", "full"] == MatrixCell(["full"], [], {"full": reason})
    assert of["precision", "fp32"] == MatrixCell(["full", "lora"], [], {})
    assert of["liger_kernel", "true"] == MatrixCell(["full", "lora"], [], {"full": reason, "lora": reason})


def test_a_framework_that_lacks_the_precision_of_auto_is_shown_at_one_that_it_has(compose: Compose) -> None:
    experiment = replace(compose(), framework=TINY)
    options = {"mode": {name: compose(f"mode={name}").mode for name in ("full", "lora")}}
    assert at_best_precision(experiment, options, A100).precision == "bf16_pure"
    assert at_best_precision(experiment, options, CPU).precision == "auto"
    assert at_best_precision(replace(experiment, precision="bf16"), options, A100).precision == "bf16"


def test_the_matrix_says_what_a_run_says(found: dict[str, Any], tmp_path: Path) -> None:
    rows = {(row["setting"], row["value"]): row["cells"]["llmforge"] for row in found["rows"]}
    reason = rows["gradient_checkpointing", "non_reentrant"]["reasons"]["full"]
    assert not rows["gradient_checkpointing", "non_reentrant"]["here"]
    assert rows["gradient_checkpointing", "reentrant"]["here"] == ["full", "lora"]
    asked = ["framework=llmforge", "gradient_checkpointing=non_reentrant", "hardware=cpu", "dry_run=true"]
    run = subprocess.run(
        [sys.executable, "-m", "mfubench", *asked], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 3 and reason in " ".join(run.stderr.split())


@pytest.mark.slow
def test_the_command_to_try_next_works_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["framework=hf_trainer", "hardware=cpu", "sequence_length=64", "--json"])
    command = shlex.split(json.loads(capsys.readouterr().out)["commands"][0])
    assert command[:3] == ["python", "-m", "mfubench"] and "sequence_length=64" in command
    run = [sys.executable, *command[1:], "dry_run=true"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_the_page_has_every_framework_the_machine_and_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["hardware=cpu"]) == 0  # hf_trainer is ready, which is what is asked for; others may be missing
    page = capsys.readouterr().out
    assert max(len(line) for line in page.splitlines() if not line.startswith("  ")) <= 100
    for words in ("measured before each run", "W&B", "transformers", "llmforge (open stack)", "flash_attention_2"):
        assert words in page
    (command,) = (line for line in page.splitlines() if line.startswith("  python -m mfubench -m framework="))
    assert "hf_trainer" in command and command.endswith("mode=full,lora hardware=cpu")


def test_a_wrong_override_is_one_screen_with_the_right_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch_siz=4"]) == 2
    assert "try       python -m mfubench.doctor batch_size=4" in capsys.readouterr().err


def test_a_gpu_that_is_not_here_is_a_problem_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_driver_lists", lambda: (None, []))
    assert main(["framework=hf_trainer", "hardware=h100-sxm", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert "needs a CUDA device" in said["problems"][0]
    assert "hardware=cpu" in said["commands"][0] and "h100" not in said["commands"][0]


def test_a_gpu_has_its_peak_and_one_that_nobody_knows_says_how_to_give_it(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = Gpu("GPU-1", "NVIDIA A100-SXM4-80GB", 80 * 2**30, (8, 0))
    monkeypatch.setattr(machine, "_driver_lists", lambda: ("580", [gpu, replace(gpu, uuid="GPU-2")]))
    seen = here.devices(compose().hardware)
    assert (seen.machine.num_devices, seen.peaks, seen.problem) == (2, {"bf16": 312e12, "tf32": 156e12}, None)
    monkeypatch.setattr(machine, "_driver_lists", lambda: ("580", [replace(gpu, name="NVIDIA A1000000")]))
    seen = here.devices(compose().hardware)
    assert not seen.peaks and "hardware.peak_flops_per_second=" in (seen.problem or "")


def test_an_environment_is_missing_out_of_date_or_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "framework").mkdir(parents=True)
    (tmp_path / "conf" / "framework" / "tiny.yaml").touch()
    folder = tmp_path / "launchers" / "tiny"
    folder.mkdir(parents=True)
    shutil.copy(LAUNCHERS / "install", folder.parent)
    (folder / "requirements.txt").write_text("# tiny\nTiny.Trainer==1.0\n")
    monkeypatch.setattr(here, "ROOT", tmp_path)
    monkeypatch.setattr(here, "LAUNCHERS", tmp_path / "launchers")
    tiny = replace(TINY, python="launchers/tiny/.venv/bin/python")
    missing = here.framework_environment(tiny)
    assert missing.state == here.STATE_MISSING and "launchers/install tiny" in (missing.because or "")

    packages = folder / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("tiny_trainer-1.0", "torch-2.13.0"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
        package, _, number = name.partition("-")
        (packages / f"{name}.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: {number}\n")
    (folder / ".venv" / "bin").mkdir()
    os.symlink(sys.executable, folder / ".venv" / "bin" / "python")
    (folder / ".venv" / "installed").write_text("what it was made from once")
    changed = here.framework_environment(tiny)
    assert changed.state == here.STATE_CHANGED
    assert changed.versions == {"Tiny.Trainer": "1.0", "torch": "2.13.0"}

    digest = "from importlib.machinery import SourceFileLoader as L; from pathlib import Path; import sys; "
    digest += "m = L('install', sys.argv[1]).load_module(); print(m.digest(Path(sys.argv[2])), end='')"
    install = str(tmp_path / "launchers" / "install")
    made_from = subprocess.run(
        [sys.executable, "-c", digest, install, str(folder)], capture_output=True, text=True, check=True
    )
    (folder / ".venv" / "installed").write_text(made_from.stdout)
    here.responds.cache_clear()
    assert here.framework_environment(tiny).state == here.STATE_READY


def test_the_doctor_imports_no_torch() -> None:
    program = (
        "import sys; from mfubench.doctor.__main__ import main; main(['hardware=cpu', '--json']);"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
