"""Results made by hand: parts that a test doesn't name are those of EXAMPLE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfubench.result import Result
from mfubench.result.result_file import adapter

FIGURES: dict[str, Any] = {
    "steps": 20,
    "warmup_steps": 5,
    "steady_because": "",
    "settled": True,
    "drift": 0.0,
    "rank": 0,
    "rank_spread": 0.0,
    "step_time_s": 0.2,
    "relative_half_width": 0.05,
    "step_time_s_median": 0.2,
    "step_time_s_std": 0.0,
    "step_time_s_min": 0.2,
    "step_time_s_max": 0.2,
    "tokens_per_second_per_device": 2560.0,
    "model_tflops_per_second_per_device": 0.0512,
    "hardware_tflops_per_second_per_device": 0.0538,
    "mfu": 0.4,
    "mfu_causal": 0.38,
    "hfu": 0.42,
    "hfu_causal": 0.39,
    "ci95": {"step_time_s": [0.19, 0.21], "mfu": [0.38, 0.42]},
    "positions_per_step": 512,
    "sequence_length_min": 256,
    "sequence_length_mean": 256.0,
    "sequence_length_max": 256,
    "real_tokens_per_step": None,
    "trained_tokens_per_step": None,
    "padding_fraction": 0.0,
    "peak_memory_bytes": 3 * 2**29,
    "memory_kind": None,
    "data_wait_s": None,
    "forward_to_optimizer_s": None,
    "optimizer_to_forward_s": None,
    "probe_s": None,
}
GPU: dict[str, Any] = dict.fromkeys(
    (
        *("sm_clock_mhz_mean", "sm_clock_mhz_min", "power_w_mean", "power_limit_w", "power_limit_default_w"),
        *("temperature_c_max", "throttled", "energy_j", "memory_errors_before", "memory_errors", "xids"),
    )
) | {"uuid": "GPU-0", "looks": 20, "foreign_processes": [], "unrecognised_processes": 0}
CPU: dict[str, Any] = dict.fromkeys(
    (*("own_share", "foreign_share", "stolen_share", "load", "threads", "frequency_mhz_mean", "frequency_mhz_min"),)
) | {"looks": 20, "cores": 2}
EXAMPLE: dict[str, dict[str, Any]] = {
    "measurement": FIGURES,
    "withheld": FIGURES,
    "hardware": {
        "device": "cpu",
        "device_name": "A chip",
        "num_devices": 2,
        "cores": 2,
        "supports_bf16": False,
        "driver": None,
        "memory_bytes": None,
        "uuids": [],
        "precision": "fp32",
        "peak_flops_per_second": 0.128e12,
        "peak_dtype": "fp32",
        "peak_source": "a data sheet",
        "peak_measured": False,
        "ceiling_flops_per_second": None,
        "ceiling_source": None,
    },
    "flops": {
        "model_flops": 10_240_000_000,
        "model_flops_causal": 9_728_000_000,
        "hardware_flops": 10_752_000_000,
        "hardware_flops_causal": 9_984_000_000,
        "parameters": 12_586_368,
        "trainable_parameters": 12_586_368,
        "uncounted": {},
    },
    "in_situ": {
        "flops": 2e12,
        "expected_flops": 2e12,
        "apart": 0.0,
        "by_operator": {},
        "uncounted": {},
        "explanation": None,
    },
    "plan": {
        "command": ["python", "train.py"],
        "environment": {},
        "config_file": "train.yaml",
        "config": "",
        "other_files": {},
        "num_ranks": 1,
        "max_steps": 27,
        "periods": 25,
        "timeout_s": 600.0,
    },
    "outcome": {"ended": "itself", "returncode": 0, "wall_s": 3.0, "log_tail": []},
    "provenance": {
        "folder": "/runs/a",
        "mfubench": "0.1.0",
        "commit": None,
        "python": "3.12.1",
        "platform": "Linux",
        "counted_with": {},
        "framework_environment": {"torch": "2.13.0", "typer": "0.29"},
        "data": None,
        "identity": {},
        "overrides": [],
    },
}
# A run that did nothing yet.
EMPTY: dict[str, Any] = {
    **dict.fromkeys(
        ("engine", "reason", "stopped_by", "group", "hardware", "flops", "second_count", "in_situ", "work")
    ),
    **dict.fromkeys(("measurement", "withheld", "plan", "outcome")),
    **dict.fromkeys(("differences", "history", "conditions", "warnings"), ()),
    **{key: {} for key in ("step_times_s", "conventions", "provenance")},
}


def make_result(**fields: Any) -> Result:
    """A result with these fields; a part that is given as a mapping is laid over EXAMPLE's."""
    whole = EMPTY | fields
    parts = {name: {**part, **whole[name]} for name, part in EXAMPLE.items() if isinstance(whole[name], Mapping)}
    if "conditions" in fields:
        parts["conditions"] = [{**(GPU if "uuid" in each else CPU), **each} for each in fields["conditions"]]
    return adapter().validate_python(whole | parts)
