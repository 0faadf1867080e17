"""A result with numbers that can be worked out by hand, a W&B server on loopback, and a user with no W&B settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_results import make_result
from standin import StandIn

from mfubench.result import Result, write_result
from mfubench.tracking import upload

SETTINGS = {
    "framework": {"name": "some_trainer", "config_file": "trainer.json", "base": {"batch": "${batch_size}"}},
    "model": {"name": "llama-tiny", "weights": "random", "architecture": {"model_type": "llama", "hidden_size": 64}},
    "mode": {"name": "lora", "rank": 8},
    "parallelism": {"name": "ddp", "num_devices": 2, "launcher": ["-m", "${launcher}"]},
    "data": {"name": "synthetic"},
    "liger": {"rope": True, "cross_entropy": False},
    "gradient_checkpointing": {"name": "none"},
    "measurement": {"name": "quick", "warmup_steps": 2, "steps": 4},
    "hardware": {"name": "auto", "device": "auto", "device_name": None, "peak_flops_per_second": None},
    "tracking": {"name": "wandb", "mode": "auto", "project": "mfubench", "entity": None},
    "dry_run": False,
    "batch_size": 2,
    "precision": "auto",
    "attention": "sdpa",
    "liger_kernel": True,
    "comparison": "equal",
    "repeat": 3,
}
# Two steps of warm-up, four measured, one more recorded; of two ranks, rank 1. MFU: 2e12 / (0.25 s x 4e13) = 0.2.
OK: dict[str, Any] = {
    "name": "some_trainer-llama-tiny-lora-ddp-none-bs2",
    "framework": "some_trainer",
    "engine": None,
    "status": "ok",
    "reason": None,
    "stopped_by": "mfubench",
    "group": "a sweep",
    "started_at": "2026-01-02T03:04:05+00:00",
    "settings": SETTINGS,
    "hardware": {"device": "cpu", "device_name": "Some CPU", "num_devices": 2, "peak_flops_per_second": 4e13},
    "flops": {"model_flops": 2 * 10**12, "hardware_flops": 3 * 10**12},
    "work": {"world_size": 2, "attention": "sdpa"},
    "differences": [],
    "measurement": {
        "steps": 4,
        "warmup_steps": 2,
        "steady_because": "the first step like the second half",
        "settled": True,
        "drift": 0.01,
        "stopped_because": "sure",
        "device_seconds": 6.0,
        "device_seconds_before_first_step": 3.0,
        "device_seconds_warmup": 0.5,
        "device_seconds_measured": 1.0,
        "device_seconds_after": 1.5,
        "rank": 1,
        "step_time_s": 0.25,
        "relative_half_width": 0.2,
        "data_wait_s": 0.01,
        "forward_to_optimizer_s": 0.2,
        "optimizer_to_forward_s": 0.05,
        "probe_s": None,
        "tokens_per_second_per_device": 2048.0,
        "mfu": 0.2,
        "hfu": 0.3,
        "of_ceiling": 0.4,
        "joules_per_token": None,
        "ci95": {"step_time_s": [0.2, 0.3], "mfu": [0.16, None]},
        "positions_per_step": 512,
        "real_tokens_per_step": None,
        "peak_memory_bytes": 1_000_000,
        "memory_kind": "resident",
    },
    "withheld": None,
    "step_times_s": {"0": [9.0] * 7, "1": [1.0, 0.5, 0.25, 0.2, 0.3, 0.25, 7.0]},
    "conditions": [{"looks": 3, "foreign_share": 0.125, "stolen_share": None, "load": 2.5}],
    "warnings": [
        {"kind": "imprecise", "text": "the mean is only known to ±20%"},
        {"kind": "busy_machine", "text": "others took an eighth of it"},
        {"kind": "imprecise", "text": "said twice"},
    ],
    "conventions": {},
    "plan": {"command": ["python", "train.py"], "config_file": "trainer.yaml", "config": "batch: 2\nlr: 1.0e-05\n"},
    "outcome": {"wall_s": 300.4},
    "provenance": {
        "mfubench": "0.1.0",
        "commit": "abc",
        "framework_environment": {"torch": "2.13.0", "typer": "0.29", "Some-Trainer": "1.2"},
        "overrides": ["framework=some_trainer", "mode=lora", "mode.rank=8", "batch_size=2", "tracking.mode=auto"],
    },
}


# What the result says of each step is what is logged; the figures are those of the measurement above.
ROWS = [
    {
        "step": step,
        "warmup": int(step <= 2),
        "step_time_s": seconds,
        "tokens_per_second_per_device": 512 / seconds,
        "mfu": 0.05 / seconds,
        "hfu": 0.075 / seconds,
        "model_tflops_per_second_per_device": 2 / seconds,
        "hardware_tflops_per_second_per_device": 3 / seconds,
    }
    for step, seconds in enumerate([1.0, 0.5, 0.25, 0.2, 0.3, 0.25], start=1)
]


@pytest.fixture(scope="session")
def run_folder() -> Callable[..., tuple[Result, Path]]:
    """A result, with what differs from OK, written in a new run folder."""

    def made(folder: Path, **changes: Any) -> tuple[Result, Path]:
        folder.mkdir(parents=True)
        result = make_result(**{**OK, "history": ROWS, **changes})
        write_result(result, folder)
        return result, folder

    return made


@pytest.fixture(scope="module", autouse=True)
def nobody_is_logged_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No W&B variable, key or settings file of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("WANDB_", "XDG_")) or name == "NETRC":
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def nothing_has_failed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins as a process does."""
    monkeypatch.setattr(upload, "_failed_in", set())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, as the host that W&B's client is configured for; nobody is logged in yet."""
    standin = StandIn()
    monkeypatch.setenv("WANDB_BASE_URL", standin.address)
    yield standin
    standin.close()
