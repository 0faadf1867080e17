"""Results made by hand, as a run writes them."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from made_results import (
    CPU_MS,
    FIGURES,
    H200_PEAK,
    H200_STEP_S,
    H200_WORK,
    h200_lora,
    h200_slower,
    make_result,
    on_a_cpu,
)
from rich.console import Console

from mfubench.config import Experiment
from mfubench.report.table import show
from mfubench.result import Result

PARTS = ("measurement", "hardware")  # a change to one of them is laid over what the result has otherwise
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


@pytest.fixture(scope="session")
def result(compose: Callable[..., Experiment]) -> Callable[..., Result]:
    """Overrides of the settings and changes of fields in; an ok result out, its step time `seconds` where given."""

    composed = functools.cache(lambda *overrides: asdict(compose(*overrides)))

    def made(*overrides: str, seconds: float | None = None, repeat: int = 0, **changes: Any) -> Result:
        base = {
            "name": "a-run",
            "framework": "hf_trainer",
            "status": "ok",
            "stopped_by": "mfubench",
            "started_at": "2026-01-01T00:00:00+00:00",
            "settings": composed(*overrides) | {"repeat": repeat},
            "hardware": {},
            "work": WORK,
            "measurement": {} if seconds is None else measured(seconds),
            "step_times_s": {"0": [0.2, 0.2]},
        }
        laid = {key: base[key] | value for key, value in changes.items() if key in PARTS and isinstance(value, dict)}
        return make_result(**base | changes | laid)

    return made


def measured(seconds: float) -> dict[str, Any]:
    """The measurement of a run whose steps took so long, known to 1 %; the rest of it in proportion."""
    faster = 0.2 / seconds
    rates = ("tokens_per_second_per_device", "model_tflops_per_second_per_device", *("mfu", "mfu_causal"))
    rates += ("hardware_tflops_per_second_per_device", "hfu", "hfu_causal")
    intervals = {"step_time_s": [0.99 * seconds, 1.01 * seconds]}
    scaled = {name: FIGURES[name] * faster for name in rates}
    return scaled | {"step_time_s": seconds, "ci95": intervals, "relative_half_width": 0.01}


@pytest.fixture(scope="session")
def repeats(result: Callable[..., Result]) -> Callable[..., list[Result]]:
    """A result per step time in s, the repeats of one sweep."""

    def made(*overrides: str, seconds: list[float], group: str | None = "sweep", **changes: Any) -> list[Result]:
        return [result(*overrides, repeat=i, seconds=each, group=group, **changes) for i, each in enumerate(seconds)]

    return made


@pytest.fixture(scope="session")
def two_on_h200(result: Callable[..., Result]) -> list[Result]:
    """Two frameworks' single runs of the worked example of docs/why.md; the second takes 33 ms more, at a lower clock."""
    found = []
    for seed, seconds, explained, clock in ((0, 0.0, h200_lora(), 1866.0), (1, 0.033, h200_slower(), 1833.0)):
        step = H200_STEP_S + seconds
        shares = {"hfu_causal": H200_WORK.hardware, "mfu_causal": H200_WORK.model}
        figures = {name: flops / H200_PEAK / step for name, flops in shares.items()}
        run = result(
            *("model=llama-3.1-8b", "mode=lora", "sequence_length=2048", "gradient_checkpointing=reentrant"),
            f"seed={seed}",
            hardware={"device": "cuda", "device_name": "NVIDIA H200", "peak_flops_per_second": H200_PEAK},
            measurement=measured(step) | figures,
            conditions=[{"uuid": "GPU-0", "sm_clock_mhz_mean": clock}],
            explanation=explained,
        )
        found.append(run)
    return found


@pytest.fixture(scope="session")
def repeats_on_a_cpu(result: Callable[..., Result]) -> list[Result]:
    """Two repeats of two settings on a CPU; the second takes 15.5 and 16.5 ms more, all of it idle."""
    found = []
    for seed, idle in ((1, (24.0, 25.0)), (2, (24.0 + 15.5 * 1.25, 25.0 + 16.5 * 1.25))):
        for repeat, ms in enumerate(idle):
            step = sum((CPU_MS | {"idle": ms}).values()) / 1250
            explained = on_a_cpu(ms)
            found.append(result(f"seed={seed}", seconds=step, repeat=repeat, group="sweep", explanation=explained))
    return found


@pytest.fixture(scope="session")
def text_of() -> Callable[..., str]:
    """Results in; what a terminal shows of them out."""

    def shown(results: list[Result], width: int = 160) -> str:
        file = io.StringIO()
        show(results, Console(width=width, file=file))
        return file.getvalue()

    return shown
