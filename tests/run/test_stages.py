"""The order of the stages, and what each leaves in the result when a later one refuses or is interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mfubench.config import Experiment
from mfubench.files.paths import cache_folder
from mfubench.hardware import machine
from mfubench.run import run

KNOWN_PEAK = ("tracking=none", "hardware.peak_flops_per_second=1e12")
SECRET = "not-for-any-file-1234"


def instead(program: str) -> str:
    """The override that starts a Python program in the place of the framework."""
    return f'framework.command=["${{run.python}}","-c","{program}"]'


def result_of(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The result.json of a run in this process."""
    run(experiment, folder, None, {}, Console(quiet=True))
    return json.loads((folder / "result.json").read_text())


def test_a_run_refused_for_its_settings_still_has_its_machine_and_precision(
    compose: Callable[..., Experiment], tmp_path: Path
) -> None:
    result = result_of(compose("attention=flash_attention_2", "hardware=cpu", *KNOWN_PEAK), tmp_path)
    assert result["status"] == "unsupported" and "FlashAttention" in result["reason"]
    assert (result["hardware"]["device"], result["hardware"]["precision"]) == ("cpu", "fp32")
    assert (result["plan"], result["flops"], result["hardware"]["peak_source"]) == (None, None, None)


def test_a_run_refused_for_its_memory_has_its_plan_and_flops(
    compose: Callable[..., Experiment], tmp_path: Path
) -> None:
    result = result_of(compose("model=llama-3.1-405b", "mode=lora", "hardware=cpu", *KNOWN_PEAK), tmp_path)
    assert result["status"] == "unsupported" and "the weights alone take" in result["reason"]
    assert result["flops"]["parameters"] > 400e9 and "train.py" in " ".join(result["plan"]["command"])
    assert result["provenance"]["data"]["name"] == "synthetic" and result["outcome"] is None
    assert not list(cache_folder().glob("models/llama-3.1-405b-*"))  # nor were 800 GB of weights written


def test_a_run_refused_for_an_unknown_peak_has_its_plan_and_flops(
    compose: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = machine.Gpu("GPU-1", "NVIDIA Nothing 9000", 80 * 2**30, (9, 0))
    monkeypatch.setattr(machine, "_driver_lists", lambda: ("580", [gpu]))
    result = result_of(compose("tracking=none"), tmp_path)
    assert result["status"] == "unsupported" and "Nothing 9000" in result["reason"]
    assert (result["hardware"]["device_name"], result["hardware"]["precision"]) == ("NVIDIA Nothing 9000", "bf16")
    assert result["flops"]["model_flops"] > 0 and result["plan"]["max_steps"] > 0


def test_what_the_framework_printed_is_clean_of_secrets_though_the_run_is_interrupted(
    compose: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    prints = "import os, signal, time; print(os.environ['SOME_API_KEY'], flush=True); "
    interrupts = f"os.kill({os.getpid()}, signal.SIGINT); time.sleep(600)"
    result = result_of(compose(instead(prints + interrupts), *KNOWN_PEAK), tmp_path)
    assert result["status"] == "interrupted"
    log = (tmp_path / "framework.log").read_text()
    assert SECRET not in log and "*" * len(SECRET) in log and SECRET not in json.dumps(result)


def test_ctrl_c_while_the_result_is_written_ends_the_command_after_it(
    compose: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mfubench.run

    write = mfubench.run.write_result

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return write(*args)

    monkeypatch.setattr("mfubench.run.write_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(compose(instead("pass"), *KNOWN_PEAK), tmp_path, None, {}, Console(quiet=True))
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "no_records"


def test_a_run_waits_for_its_device_before_it_prepares_anything(tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    with open(locks / "cpu.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "mfubench", instead("pass"), *KNOWN_PEAK]
        environment = os.environ | {"MFUBENCH_LOCKS": str(locks), "COLUMNS": "300"}
        waiting = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        first = waiting.stderr.readline()
    assert first.startswith("waiting for cpu: ")
    assert "preparing the workload" in waiting.stderr.readline()
    waiting.communicate(timeout=120)
    assert waiting.returncode == 3


def test_a_dry_run_in_the_folder_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "records").mkdir(parents=True)
    command = [sys.executable, "-m", "mfubench", "dry_run=true", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and "there is a run in this folder already" in done.stderr
    assert not (tmp_path / "run" / "plan.json").exists()
