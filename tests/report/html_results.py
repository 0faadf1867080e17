"""Results to draw, with figures as four H100s might give them: every figure follows from a step time and the FLOPs of a step."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from made_results import make_result

from mfubench.config import Experiment
from mfubench.launch.outcome import Outcome
from mfubench.measure.intervals import summarize
from mfubench.measure.metric_table import CONVENTIONS
from mfubench.measure.metric_table import STEP_RATES as HISTORY
from mfubench.result import Result

PEAK, CEILING = 989.4e12, 762e12  # FLOP/s
TFLOP = {"full": (197.6, 261.4), "lora": (136.5, 200.6)}  # of a step: model, hardware
PARAMETERS = {"full": (8_030_261_248, 8_030_261_248), "lora": (8_051_232_768, 20_971_520)}
FRAMEWORKS = {  # by mode: s per step
    "hf_trainer": (0.531, 0.405),
    "trl": (0.535, 0.409),
    "axolotl": (0.512, 0.391),
    "llama_factory": (0.541, 0.412),
    "ms_swift": (0.548, 0.421),
    "torchtune": (0.498, 0.372),
    "litgpt": (0.566, 0.438),
    "llmforge": (0.527, 0.388),
}
HOSTILE = (
    """</svg></style>"><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">"""
    """'&lt;&#x27;$x^2$\ud800\x00]]>"""
)
USERS_KEYS = ("native", "framework_environment", "throttled", "other_files", "conventions")
CLOSED_SETS = ("kind", "ended", "out_of_memory")  # another word in one of them, and it is no result
NOT_OK = {
    "out_of_memory": "4 of 45 step periods recorded; its last words: torch.OutOfMemoryError: CUDA out of memory. Tried to "
    "allocate 3.91 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "not_installed": "launchers/llmforge/.venv/bin/python is not there; launchers/install llmforge makes it",
    "failed": "exit status 1, 0 of 45 step periods recorded; its last words: ValueError: LoRA on lm_head is not supported",
    "unsupported": "parallelism=zero2 is not one of this framework's: single, ddp, fsdp2",
}


class Lab:
    """Makes results from the settings of a composed experiment; the same seed makes the same results."""

    def __init__(self, experiment: Experiment, seed: int = 0) -> None:
        self.settings = asdict(experiment)
        self.random = random.Random(seed)

    def asked(self, framework: str, mode: str, **changes: Any) -> dict[str, Any]:
        """The settings with another framework, mode and top-level values; `num_devices` is among the latter."""
        settings = copy.deepcopy(self.settings)
        settings["framework"]["name"] = framework
        lora = mode == "lora"
        settings["mode"] |= {"name": mode, "rank": 8 if lora else None, "alpha": 16.0 if lora else None}
        return settings | changes

    def failed(self, status: str, framework: str, mode: str, **changes: Any) -> Result:
        """A run that is not ok."""
        whole = self.ok(framework, mode, 0.5, **changes)
        log = [f"{framework}: step {step}" for step in range(1, 5)] + [NOT_OK[status].partition("words: ")[2] or "bye"]
        return replace(
            whole,
            status=status,
            reason=NOT_OK[status],
            measurement=None,
            history=(),
            step_times_s={},
            conditions=(),
            warnings=(),
            work=None,
            stopped_by=None,
            outcome=Outcome("itself", 1, 31.0, tuple(log)),
        )

    def ok(
        self, framework: str, mode: str, step_s: float, noise: float = 0.004, steps: int = 40, **changes: Any
    ) -> Result:
        """A run whose steps take about `step_s` seconds, the first of its five warm-up steps thirty times as long."""
        settings = self.asked(framework, mode, **changes)
        batch, sequence = settings["batch_size"], settings["sequence_length"]
        level = self.random.gauss(step_s, noise / 2 * step_s)
        warmup = [level * factor for factor in (30, 1.6, 1.15, 1.05, 1.02)]
        times = warmup + [self.random.gauss(level, noise * level) for _ in range(steps)]
        summed = summarize(times[5:])
        work = {name: amount * batch / 2 for name, amount in zip(("model", "hardware"), TFLOP[mode], strict=True)}
        measurement = self._measurement(summed, work, batch, sequence)
        history = [
            {"step": step, "warmup": int(step <= 5), "step_time_s": seconds} | dict.fromkeys(HISTORY, 0.4)
            for step, seconds in enumerate(times, start=1)
        ]
        parameters, trainable = PARAMETERS[mode]
        return make_result(
            name=f"{framework}-{settings['model']['name']}-{mode}-zero2-reentrant-bs{batch}",
            framework=framework,
            engine=None,
            status="ok",
            reason=None,
            stopped_by="mfubench",
            group="2026-05-04/10-00-00",
            started_at=f"2026-05-04T10:{self.random.randrange(60):02}:00+00:00",
            settings=settings,
            hardware=_hardware(settings["parallelism"]["num_devices"]),
            flops=_flops(work, parameters, trainable),
            work=_work(trainable, parameters, mode),
            differences=[],
            measurement=measurement,
            withheld=None,
            step_times_s={"0": times, "1": times},
            history=history,
            conditions=[_conditions(index) for index in range(2)],
            warnings=[],
            conventions=CONVENTIONS,
            plan=_plan(framework),
            outcome={
                "ended": "stopped",
                "returncode": -15,
                "wall_s": 61.2,
                "log_tail": ["bye"],
                "killed_for_memory": False,
            },
            provenance=_provenance(framework),
        )

    def _measurement(self, times: Any, work: Mapping[str, float], batch: int, sequence: int) -> dict[str, Any]:
        figures = {
            "tokens_per_second_per_device": batch * sequence,
            "model_tflops_per_second_per_device": work["model"],
            "hardware_tflops_per_second_per_device": work["hardware"],
            "mfu": work["model"] * 1e12 / PEAK,
            "mfu_causal": 0.97 * work["model"] * 1e12 / PEAK,
            "hfu": work["hardware"] * 1e12 / PEAK,
            "hfu_causal": 0.96 * work["hardware"] * 1e12 / PEAK,
        }
        rates = {name: amount / times.mean for name, amount in figures.items()}
        wait = self.random.uniform(0.001, 0.02) * times.mean
        return {
            "steps": times.n,
            "warmup_steps": 5,
            "steady_because": "warm-up ended before step 6 (the first within the range of the second half)",
            "settled": True,
            "drift": 0.0004,
            "rank": 0,
            "rank_spread": 0.0008,
            "step_time_s": times.mean,
            "relative_half_width": (times.ci95_high - times.mean) / times.mean,
            "step_time_s_median": times.median,
            "step_time_s_std": times.std,
            "step_time_s_min": times.minimum,
            "step_time_s_max": times.maximum,
            **rates,
            "ci95": {"step_time_s": [times.ci95_low, times.ci95_high]}
            | {name: [amount / times.ci95_high, amount / times.ci95_low] for name, amount in figures.items()},
            "positions_per_step": batch * sequence,
            "sequence_length_min": sequence,
            "sequence_length_mean": float(sequence),
            "sequence_length_max": sequence,
            "real_tokens_per_step": 0.8 * batch * sequence,
            "trained_tokens_per_step": 0.5 * batch * sequence,
            "padding_fraction": 0.2,
            "peak_memory_bytes": round((38 + 6 * batch + self.random.random()) * 2**30),
            "memory_kind": "cuda_max_allocated",
            "data_wait_s": wait,
            "forward_to_optimizer_s": 0.86 * times.mean,
            "optimizer_to_forward_s": 0.14 * times.mean,
            "probe_s": 0.0003,
            "stopped_because": "sure",
            "device_seconds": 4 * 61.2,
            "device_seconds_before_first_step": 4 * 31.0,
            "device_seconds_warmup": 4 * 10.0,
            "device_seconds_measured": 4 * 19.5,
            "device_seconds_after": 4 * 0.7,
            "joules_per_token": 0.31,
            "of_ceiling": rates["hfu_causal"] * PEAK / CEILING,
        }


def forty(lab: Lab) -> list[Result]:
    """Forty runs of mixed statuses: eight frameworks in two modes, a sweep over batch sizes, more repeats of three settings."""
    found = []
    for framework, times in FRAMEWORKS.items():
        for mode, step_s in zip(("full", "lora"), times, strict=True):
            if framework == "llmforge":
                found.append(lab.failed("not_installed", framework, mode))
            elif (framework, mode) == ("torchtune", "full"):
                found.append(lab.failed("unsupported", framework, mode))
            elif (framework, mode) == ("litgpt", "lora"):
                found.append(lab.failed("failed", framework, mode))
            else:
                found.append(lab.ok(framework, mode, step_s))
    for framework in ("trl", "ms_swift"):
        found += over_batch_size(lab, framework)
    for repeat in range(1, 6):
        for framework in ("axolotl", "hf_trainer"):
            found.append(lab.ok(framework, "lora", FRAMEWORKS[framework][1], repeat=repeat))
    return found + [lab.ok("trl", "lora", 0.41, noise=0.05, repeat=repeat) for repeat in range(1, 7)]


def over_batch_size(lab: Lab, framework: str) -> list[Result]:
    """A full fine-tune at four batch sizes beside two, of which the largest do not fit."""
    step_s = FRAMEWORKS[framework][0]
    fits = [lab.ok(framework, "full", step_s * (0.14 + 0.43 * size), batch_size=size) for size in (1, 4)]
    return fits + [lab.failed("out_of_memory", framework, "full", batch_size=size) for size in (8, 16)]


def spoilt(result: Result) -> Result:
    """The result as read from a file in which every string, and every key that users choose, has a hostile end."""

    def hostile(value: Any, key: str = "") -> Any:
        if isinstance(value, str) and key not in CLOSED_SETS:
            return value + HOSTILE
        if isinstance(value, dict):
            return {name + HOSTILE * (key in USERS_KEYS): hostile(inner, name) for name, inner in value.items()}
        return [hostile(inner) for inner in value] if isinstance(value, list) else value

    return make_result(**hostile(json.loads(json.dumps(asdict(result)))))


def _hardware(num_devices: int) -> dict[str, Any]:
    return {
        "device": "cuda",
        "device_name": "NVIDIA H100 80GB HBM3",
        "num_devices": num_devices,
        "uuids": [f"GPU-{index}" for index in range(num_devices)],
        "cores": 104,
        "supports_bf16": True,
        "driver": "570.86.15",
        "memory_bytes": 85_029_158_912,
        "precision": "bf16",
        "peak_flops_per_second": PEAK,
        "peak_dtype": "bf16",
        "peak_source": "NVIDIA H100 data sheet, SXM5, without sparsity",
        "peak_measured": False,
        "ceiling_flops_per_second": CEILING,
        "ceiling_source": "the largest bf16 matmul rate of this device: 8192x8192x8192, torch 2.11.0",
    }


def _flops(work: Mapping[str, float], parameters: int, trainable: int) -> dict[str, Any]:
    return {
        "model_flops": round(work["model"] * 1e12),
        "model_flops_causal": round(0.97 * work["model"] * 1e12),
        "hardware_flops": round(work["hardware"] * 1e12),
        "hardware_flops_causal": round(0.96 * work["hardware"] * 1e12),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "uncounted": {},
    }


def _work(trainable: int, parameters: int, mode: str) -> dict[str, Any]:
    return {
        "model": "LlamaForCausalLM" if mode == "full" else "PeftModelForCausalLM",
        "model_type": "llama",
        "wrappers": ["DeepSpeedEngine", "LlamaForCausalLM"],
        "parallel_wrappers": ["DeepSpeedEngine"],
        "world_size": 4,
        "zero_stage": 2,
        "device": "cuda",
        "device_name": "NVIDIA H100 80GB HBM3",
        "threads": 26,
        "parameters": parameters,
        "trainable_parameters": trainable,
        "trainable_parameters_with_gradient": trainable,
        "dtypes": {"trainable": {"bfloat16": trainable}, "frozen": {}},
        "autocast": None,
        "linear_dtype": "bfloat16",
        "quantized": {},
        "tf32": False,
        "optimizers": [
            {"class": "AdamW", "fused": True, "steps": {"float32": trainable}, "state": {"float32": 2 * trainable}}
        ],
        "optimizers_step_copies": True,
        "attention": {
            "implementation": "flash_attention_2",
            "sdpa_calls": 0,
            "sdpa_causal_calls": 0,
            "sdpa_masked_calls": 0,
        },
        "recomputation": "reentrant",
        "recomputed": {"LlamaDecoderLayer": 32},
        "liger_kernels": [],
        "compiled": False,
        "positions_per_step": 4096,
    }


def _conditions(index: int) -> dict[str, Any]:
    return {
        "uuid": f"GPU-{index}",
        "looks": 20,
        "sm_clock_mhz_mean": 1755.0,
        "sm_clock_mhz_min": 1620.0,
        "power_w_mean": 668.2,
        "power_limit_w": 700.0,
        "power_limit_default_w": 700.0,
        "temperature_c_max": 64.0,
        "throttled": {"software power cap": 0.35},
        "foreign_processes": [],
        "energy_j": 14_100.0,
        "memory_errors": 0,
    }


def _plan(framework: str) -> dict[str, Any]:
    config = "\n".join(
        (
            "base_model: meta-llama/Llama-3.1-8B",
            "sequence_len: 2048",
            "micro_batch_size: 2",
            "optimizer: adamw_torch_fused",
        )
    )
    return {
        "command": ["/home/user/bench/launchers/.venv/bin/python", "-m", framework, "train", f"{framework}.yaml"],
        "environment": {"OMP_NUM_THREADS": "26"},
        "config_file": f"{framework}.yaml",
        "config": config + "\n",
        "other_files": {"zero_2.json": '{"zero_optimization": {"stage": 2}}\n'},
        "num_ranks": 4,
        "max_steps": 47,
        "periods": 45,
        "timeout_s": 1800.0,
    }


def _provenance(framework: str) -> dict[str, Any]:
    return {
        "mfubench": "0.1.0",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "python": "3.11.7",
        "platform": "Linux-6.8.0-x86_64-with-glibc2.39",
        "counted_with": {"torch": "2.11.0", "transformers": "5.17.0", "scipy": "1.17.1"},
        "framework_environment": {
            "torch": "2.11.0",
            "transformers": "5.17.0",
            "deepspeed": "0.19.8",
            framework: "1.2.3",
        }
        | {f"package-{number}": f"1.{number}" for number in range(80)},
        "folder": "/home/user/bench/outputs/sweeps/2026-05-04/10-00-00/0",
        "data": {"name": "synthetic", "source": None, "num_rows": None, "num_samples": 400},
    }
