"""Results made by hand, as a run writes them."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from rich.console import Console

from mfubench.config import Experiment
from mfubench.report.table import show
from mfubench.result import Result

MEASUREMENT: dict[str, Any] = {
    "steps": 20,
    "warmup_steps": 5,
    "step_time_s": 0.2,
    "relative_half_width": 0.05,
    "ci95": {"step_time_s": [0.19, 0.21], "mfu": [0.38, 0.42]},
    "tokens_per_second_per_device": 2560.0,
    "model_tflops_per_second_per_device": 0.0512,
    "hardware_tflops_per_second_per_device": 0.0538,
    "mfu": 0.4,
    "mfu_causal": 0.38,
    "hfu": 0.42,
    "hfu_causal": 0.39,
    "positions_per_step": 512,
    "peak_memory_bytes": 3 * 2**29,
    "padding_fraction": 0.0,
    "joules_per_token": None,
    "of_ceiling": None,
}
WORK: dict[str, Any] = {
    "model": "LlamaForCausalLM",
    "parallel_wrappers": [],
    "zero_stage": None,
    "world_size": 1,
    "parameters": 12586368,
    "trainable_parameters": 12586368,
    "quantized": {},
    "linear_dtype": "float32",
    "tf32": False,
    "optimizers": [{"class": "AdamW", "fused": True, "steps": {"float32": 1}, "state": {"float32": 2}}],
    "attention": {
        "implementation": "sdpa",
        "sdpa_calls": 4,
        "sdpa_causal_calls": 4,
        "sdpa_masked_calls": 0,
    },
    "recomputation": "none",
    "recomputed": {},
    "liger_kernels": [],
    "compiled": False,
    "positions_per_step": 512,
}
HARDWARE: dict[str, Any] = {
    "device_name": "A chip",
    "precision": "fp32",
    "peak_flops_per_second": 0.128e12,
    "peak_dtype": "fp32",
    "peak_source": "a data sheet",
    "peak_measured": False,
}


@pytest.fixture(scope="session")
def result(compose: Callable[..., Experiment]) -> Callable[..., Result]:
    """Overrides of the settings and changes of fields in; an ok result out, its step time `seconds` where given."""

    composed = functools.cache(lambda *overrides: asdict(compose(*overrides)))

    def made(*overrides: str, seconds: float | None = None, repeat: int = 0, **changes: Any) -> Result:
        ok = Result(
            name="a-run",
            framework="hf_trainer",
            engine=None,
            status="ok",
            reason=None,
            stopped_by="mfubench",
            group=None,
            started_at="2026-01-01T00:00:00+00:00",
            settings=composed(*overrides) | {"repeat": repeat},
            hardware=HARDWARE,
            flops=None,
            work=WORK,
            differences=[],
            measurement=MEASUREMENT if seconds is None else measured(seconds),
            withheld=None,
            step_times_s={"0": [0.2, 0.2]},
            history=[],
            conditions=[],
            warnings=[],
            conventions={},
            plan=None,
            outcome=None,
            provenance={"folder": "/runs/a", "framework_environment": {"torch": "2.13.0", "typer": "0.29"}},
        )
        return replace(ok, **changes)

    return made


def measured(seconds: float) -> dict[str, Any]:
    """The measurement of a run whose steps took so long, known to 1 %; the rest of it in proportion."""
    faster = 0.2 / seconds
    rates = ("tokens_per_second_per_device", "model_tflops_per_second_per_device", *("mfu", "mfu_causal"))
    rates += ("hardware_tflops_per_second_per_device", "hfu", "hfu_causal")
    intervals = {"step_time_s": [0.99 * seconds, 1.01 * seconds]}
    scaled = {name: MEASUREMENT[name] * faster for name in rates}
    return MEASUREMENT | scaled | {"step_time_s": seconds, "ci95": intervals, "relative_half_width": 0.01}


@pytest.fixture(scope="session")
def repeats(result: Callable[..., Result]) -> Callable[..., list[Result]]:
    """A result per step time in s, the repeats of one sweep."""

    def made(*overrides: str, seconds: list[float], group: str | None = "sweep", **changes: Any) -> list[Result]:
        return [result(*overrides, repeat=i, seconds=each, group=group, **changes) for i, each in enumerate(seconds)]

    return made


@pytest.fixture(scope="session")
def text_of() -> Callable[..., str]:
    """Results in; what a terminal shows of them out."""

    def shown(results: list[Result], width: int = 160) -> str:
        file = io.StringIO()
        show(results, Console(width=width, file=file))
        return file.getvalue()

    return shown
