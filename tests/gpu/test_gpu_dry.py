"""Each run of `make test-gpu` and `make reference-gpu` can be planned for an H200: checked on any machine."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gpu_runs import BASE, RUNS
from reference_runs import STUDIES, hand_in

from mfubench.config import Experiment
from mfubench.config.compose import check_command_line, flags_first, store_schema
from mfubench.hardware.machine import detect
from mfubench.plan import prepare


@pytest.mark.parametrize("name", RUNS)
def test_a_run_for_the_gpu_tests_is_supported_on_an_h200(compose: Callable[..., Experiment], name: str) -> None:
    experiment = compose(*BASE, *RUNS[name], "hardware=h200", "dry_run=true")
    target = prepare.resolve(experiment, lambda _: False)
    prepare.check(target)
    assert target.machine.device == "cuda" and target.num_devices == 1
    assert target.machine.memory_bytes is not None
    fits = prepare.expected_memory(target).total < target.machine.memory_bytes
    assert fits == (name != "out_of_memory")


def test_the_gpu_tests_ask_for_each_run() -> None:
    test = (Path(__file__).parent / "test_on_a_gpu.py").read_text()
    assert all(f'"{name}"' in test for name in RUNS)


def test_the_published_comparison_on_one_gpu_is_supported_on_an_h200() -> None:
    store_schema()
    found: dict[str, list[Experiment]] = {}
    for study, arguments in STUDIES.items():
        found[study] = []
        check_command_line(flags_first([*shlex.split(arguments), "hardware=h200", "dry_run=true"]), found[study].append)
    assert {study: len(jobs) for study, jobs in found.items()} == {
        "axolotl-vs-llmforge-lora": 6,
        "axolotl-vs-llmforge-full": 6,
    }
    for jobs in found.values():
        for job in jobs:
            assert (job.parallelism.num_devices, job.attention, job.model.name) == (1, "sdpa", "llama-3.1-8b")
            prepare.check(prepare.resolve(job, lambda _: False))


def test_results_are_handed_in_with_their_command_in_place_of_earlier_ones(tmp_path: Path) -> None:
    for job in ("0", "1"):
        (tmp_path / "sweep" / job / "records").mkdir(parents=True)
        (tmp_path / "sweep" / job / "result.json").write_text(job)
    target = tmp_path / "h200" / "study"
    (target / "earlier").mkdir(parents=True)
    hand_in(tmp_path / "sweep", "-m batch_size=1,2", target)
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == [
        "0/result.json",
        "1/result.json",
        "command.txt",
    ]
    assert (target / "command.txt").read_text() == "python -m mfubench -m batch_size=1,2\n"


def test_without_a_gpu_the_target_says_in_one_line_that_it_needs_one(compose: Callable[..., Experiment]) -> None:
    if detect(compose().hardware).device == "cuda":
        pytest.skip("there is a GPU: make reference-gpu would measure")
    command = [sys.executable, Path(__file__).parent / "reference_runs.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("make reference-gpu") and len(done.stderr.splitlines()) == 1
