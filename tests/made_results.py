"""Results made by hand: parts that a test doesn't name are those of EXAMPLE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mfubench.explain.categories import Kind
from mfubench.explain.exclusive import IDLE, Exclusive
from mfubench.explain.explanation import Explanation, Gap, KernelTime
from mfubench.explain.waterfall import Device, Work, step_time, waterfall
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
# Llama-3.1-8B on an H200, LoRA of seven targets, 2 x 2048 tokens, reentrant checkpointing: the worked example of
# docs/why.md. The step time, clock and FLOPs are of a real run; the kernels' ms, in a profiled step of 560 ms, are made up.
H200_PEAK, H200_STEP_S = 989.4e12, 0.5043
H200_MS = {
    **{"matmul": 290.0, "attention": 23.0, "normalisation": 18.0, "elementwise": 71.0, "rotary": 9.0, "loss": 11.0},
    **{"optimizer": 4.0, "copy": 3.0, "idle": 131.0},
}
H200_WORK = Work(
    model=129.865e12,
    hardware=190.719e12,
    recomputation=59.547e12,
    attention=9.900e12,
    peak=H200_PEAK,
    fastest_peak=H200_PEAK,
    profiled=190.719e12,
    clock_ratio=1866e6 / (H200_PEAK / (132 * 4096)),  # 132 SMs of 4096 FLOP per clock
)
H200_KERNELS = {
    **{"nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NTT": ("matmul", 225, 212.0), "nvjet_tst_128x256": ("matmul", 96, 60.0)},
    "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add>": ("elementwise", 577, 38.0),
    "cudnn_generated_fort_native_sdpa_sm90_flash_bprop": ("attention", 32, 14.0),
}
# EXAMPLE's run on a CPU: a step of 200 ms, profiled at 250.
CPU_MS = {"matmul": 150.0, "attention": 12.5, "elementwise": 37.5, "optimizer": 25.0, "other": 0.5, "idle": 24.5}
CPU_WORK = Work(
    model=9_728_000_000,
    hardware=9_984_000_000,
    recomputation=0,
    attention=500_000_000,
    peak=0.128e12,
    fastest_peak=0.128e12,
    profiled=9_984_000_000,
    clock_ratio=None,
)


def exclusive_times(ms: Mapping[str, float], steps: int = 1) -> Exclusive:
    """Exclusive times of a profile, from the mean ms of a step by category."""
    kinds = {IDLE if name == "idle" else Kind(name, f"{name}_kernel", "compute"): time for name, time in ms.items()}
    return Exclusive({kind: time * steps * 1e6 for kind, time in kinds.items()}, 0)


def explanation(
    ms: Mapping[str, float],
    step_s: float,
    device: Device,
    work: Work,
    kernels: Mapping[str, tuple[str, float, float]] | None = None,
    **fields: Any,
) -> Explanation:
    """The explanation of a step from the ms of a profiled one by category; `kernels`: category, calls and ms by name."""
    time = step_time(exclusive_times(ms), 1, step_s, device)
    busy = (step_s - time.categories["idle"]) / (sum(ms.values()) - ms["idle"])
    found = Explanation(
        steps=3,
        profiled_step_s=sum(ms.values()) / 1e3,
        categories_s=time.categories,
        profiled_idle_s=ms["idle"] / 1e3,
        hidden_communication_s=0.0,
        kernels=tuple(KernelTime(name, *each[:2], each[2] * busy) for name, each in (kernels or {}).items()),
        gaps=(Gap(0.0041, "aten::item"), Gap(0.0007, "")),
        waterfall=waterfall(time, work, device),
        no_waterfall=None,
        notes=(),
        cost_s=4.5,
    )
    return replace(found, **fields)


def h200_lora(**fields: Any) -> Explanation:
    """The explanation of the worked example."""
    return explanation(H200_MS, H200_STEP_S, "cuda", H200_WORK, H200_KERNELS, **fields)


def h200_slower(**fields: Any) -> Explanation:
    """The explanation of a run that takes 33 ms more: elementwise 9, loss 4, idle 21, and 1 less in matmuls."""
    ms = H200_MS | {"matmul": 289.0, "elementwise": 80.0, "loss": 15.0}
    added = "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add>"
    kernels = H200_KERNELS | {added: ("elementwise", 641, 46.0)}
    return explanation(ms, H200_STEP_S + 0.033, "cuda", H200_WORK, kernels, **fields)


def on_a_cpu(idle_ms: float = 24.5, **fields: Any) -> Explanation:
    """The explanation of a run on a CPU that is as EXAMPLE's but for its idle time, of a profiled step."""
    ms = CPU_MS | {"idle": idle_ms}
    operators = {"aten::mm": ("matmul", 57.0, 140.0), "aten::mul": ("elementwise", 120.0, 30.0)}
    return explanation(ms, sum(ms.values()) / 1250, "cpu", CPU_WORK, operators, **fields)


# A run that did nothing yet.
EMPTY: dict[str, Any] = {
    **dict.fromkeys(
        ("engine", "reason", "stopped_by", "group", "hardware", "flops", "second_count", "in_situ", "work")
    ),
    **dict.fromkeys(("measurement", "withheld", "plan", "outcome", "explanation")),
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
