"""The end of a framework that trains on and ignores SIGTERM, once enough is measured."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
from matrix import COMMON, alive, command_lines, marked

TRAIN_ON = ("measurement.steps=2000", "measurement.minimum_steps=4", "measurement.seconds=1")
DEAF = ("/bin/sh", "-c", 'trap "" TERM; exec "$@"', "deaf")  # what it starts inherits that SIGTERM is ignored
TRAINER = ("${run.python}", "${parallelism.launcher}", "${run.launchers}/hf_trainer/train.py", "${run.config_path}")
RANKS = "parallelism.num_devices=2"


ALONE = pytest.param((), id="alone", marks=pytest.mark.slow)
DEEPSPEED = pytest.param(("parallelism=zero2", RANKS), id="deepspeed", marks=pytest.mark.slow)


@pytest.mark.parametrize("parallelism", [ALONE, pytest.param(("parallelism=ddp", RANKS), id="torchrun"), DEEPSPEED])
def test_a_trainer_that_ignores_sigterm_is_gone_within_two_seconds_of_the_last_step_wanted(
    parallelism: tuple[str, ...], tmp_path: Path
) -> None:
    command = ",".join(f"'{word}'" for word in (*DEAF, *TRAINER))
    argv = [sys.executable, "-m", "mfubench", *COMMON[:-1], *TRAIN_ON, *parallelism, f"framework.command=[{command}]"]
    done = subprocess.run(
        [*argv, "hydra.run.dir=run"],
        cwd=tmp_path,
        env=marked(tmp_path, "deaf"),
        capture_output=True,
        text=True,
        check=False,
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["stopped_by"]) == ("ok", "mfubench"), done.stdout + done.stderr
    outcome = result["outcome"]
    assert (outcome["ended"], outcome["pids_left"], outcome["log_bytes_left_out"]) == ("stopped", [], 0)
    assert outcome["cleanup_s"] <= 1.0  # up to 1 s goes by before a poll sees that the steps are enough
    devices = result["settings"]["parallelism"]["num_devices"]
    assert result["measurement"]["device_seconds_after"] / devices <= 2.0
    assert command_lines(alive(tmp_path, "deaf")) == []
    (lock,) = (tmp_path / "locks").iterdir()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is free
