"""On a real GPU (make test-gpu): runs of every kind that a CPU can't show, and mfubench's clock against others.

Not yet run on a GPU: every run is planned for one by test_gpu_dry.py, and the rest is written from what CUDA promises.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from gpu_runs import BASE, RUNS
from rich.console import Console

from mfubench.config import Experiment
from mfubench.files.paths import PROBE_SITE, ROOT
from mfubench.hardware.lock import exclusive
from mfubench.hardware.machine import detect
from mfubench.probe.device_clock import DeviceClock
from mfubench.records.reading import read_records

Ran = Callable[[str], dict[str, Any]]
TRAINERS = Path(__file__).parents[1] / "trainers"


def is_ok(result: dict[str, Any]) -> None:
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["hardware"]["device"] == "cuda"
    assert 0 < result["measurement"]["mfu"] < result["measurement"]["hfu"] + 1e-9 < 1


def test_device_events_agree_with_a_synchronised_clock() -> None:
    import torch

    matrix, clock = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16), DeviceClock()
    for _ in range(5):
        matrix @ matrix
    torch.cuda.synchronize()
    began = time.perf_counter()
    clock.boundary(0)
    for step in range(1, 21):
        for _ in range(20):
            matrix @ matrix
        clock.boundary(step)
    torch.cuda.synchronize()
    by_host = time.perf_counter() - began
    assert sum(seconds for _, seconds, _ in clock.awaited()) == pytest.approx(by_host, rel=0.005)


def test_hf_trainer_runs_with_ligers_kernels_and_its_flops_are_those_expected(measured: Ran) -> None:
    result = measured("hf_trainer")
    is_ok(result)
    assert result["work"]["liger_kernels"]
    assert result["in_situ"]["apart"] == pytest.approx(0, abs=0.001)
    assert result["measurement"]["memory_kind"] and result["measurement"]["peak_memory_bytes"] > 2**30


def test_nvml_was_read_during_the_run(measured: Ran) -> None:
    result = measured("hf_trainer")
    assert result["conditions"] and result["measurement"]["joules_per_token"] > 0
    assert result["hardware"]["uuids"][0].startswith("GPU-") and result["hardware"]["driver"]


def test_the_ceiling_is_below_the_peak_and_above_what_the_run_reached(measured: Ran) -> None:
    found, figures = measured("hf_trainer")["hardware"], measured("hf_trainer")["measurement"]
    reached = figures["hardware_tflops_per_second_per_device"] * 1e12
    assert reached < found["ceiling_flops_per_second"] < found["peak_flops_per_second"]


def test_a_run_waits_for_the_gpu_that_another_one_has(compose: Callable[..., Experiment], tmp_path: Path) -> None:
    machine = detect(compose().hardware)
    command = [sys.executable, "-m", "mfubench", *BASE, *RUNS["eager"]]
    with exclusive(machine, 1, Path("/some/run"), Console(stderr=True)):
        waits = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert waits.stderr is not None
            assert any(f"waiting for {machine.uuids[0]}" in line for line in waits.stderr)
        finally:
            waits.terminate()
            waits.communicate(timeout=60)


@pytest.mark.parametrize("name", ["llmforge", "axolotl", "torchtune", "litgpt"])
def test_a_framework_does_the_work_that_was_asked_for(measured: Ran, name: str) -> None:
    is_ok(measured(name))


def test_fsdp2_runs_on_one_device(measured: Ran) -> None:
    result = measured("fsdp2")
    is_ok(result)
    assert result["work"]["parallel_wrappers"] or result["work"]["wrappers"]


def test_torch_compile_is_seen(measured: Ran) -> None:
    is_ok(measured("torch_compile"))
    assert measured("torch_compile")["work"]["compiled"]


@pytest.mark.parametrize("name", ["eager", "flash_attention_2"])
def test_the_attention_that_was_asked_for_runs(measured: Ran, name: str) -> None:
    is_ok(measured(name))
    assert name in str(measured(name)["work"]["attention"])


def test_qlora_runs_over_packed_weights(measured: Ran) -> None:
    is_ok(measured("qlora"))
    assert measured("qlora")["work"]["quantized"]


def test_fp32_runs_with_tf32_and_is_measured_by_its_peak(measured: Ran) -> None:
    result = measured("tf32")
    is_ok(result)
    assert result["work"]["tf32"] and result["hardware"]["peak_dtype"] == "tf32"


def test_memory_that_is_full_is_said(measured: Ran) -> None:
    result = measured("out_of_memory")
    assert result["status"] == "out_of_memory" and "memory was full" in result["reason"]


def test_steps_of_a_replayed_graph_have_the_trainers_own_step_time(tmp_path: Path) -> None:
    steps = 200
    environment = {**os.environ, "PYTHONPATH": f"{PROBE_SITE}{os.pathsep}{ROOT}", "MFUBENCH_RECORDS": str(tmp_path)}
    command = [sys.executable, TRAINERS / "graphed.py", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (rank,) = read_records(tmp_path).ranks
    assert len(rank.step_times_s) >= steps - 1
    assert median(rank.step_times_s[-steps + 1 :]) == pytest.approx(float(done.stdout), rel=0.01)


def test_the_frameworks_own_step_time_is_ours(measured: Ran, tmp_path: Path) -> None:
    """Two runs to their ends, without the probe: what the longer one took more, by its log, were its further steps."""
    result = measured("hf_trainer")
    plan, took = result["plan"], {}
    for steps in (20, 80):
        config = tmp_path / f"{steps}.yaml"
        config.write_text(yaml.safe_dump({**native_config(result), "max_steps": steps, "output_dir": str(tmp_path)}))
        command = [*plan["command"][:-1], str(config)]
        environment = {**os.environ, **plan["environment"]}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        (seconds,) = re.findall(r"'train_runtime': '?([\d.]+)", done.stdout + done.stderr)
        took[steps] = float(seconds)
    assert (took[80] - took[20]) / 60 == pytest.approx(result["measurement"]["step_time_s"], rel=0.02)


def native_config(result: dict[str, Any]) -> dict[str, Any]:
    """The native file of a run, as it lies in its folder."""
    file = Path(result["provenance"]["folder"]) / "hf_trainer.yaml"
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    return json.loads(json.dumps(config))
