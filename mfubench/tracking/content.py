"""Choose what W&B shows of a result: its config, its steps, its summary and its tags. All else is in result.json.

In the summary, a headline figure has its own name, any other a prefix by which W&B sorts: ci95/, counts/, machine/, measured/,
profile/, time/, waterfall/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import yaml

from mfubench.config.errors import key_of
from mfubench.config.vocabulary import LEFT_OPEN, OUTSIDE_THE_WORK
from mfubench.measure.metric_table import BY_NAME
from mfubench.report.settings import weighty_versions
from mfubench.result import Result
from mfubench.result.flat import leaves

PROFILED = "profiled_tflop"  # hardware FLOPs of a step, in the history
KERNEL_COLUMNS: list[str | int] = ["kernel", "category", "calls_per_step", "ms_per_step"]
# Keys that describe a run: of any group, of the modes, of a model's architecture, of the hardware found.
OF_ANY_GROUP = ("name", "weights", "path", "padding", "num_devices", "num_nodes")
OF_LORA = ("rank", "alpha", "dropout", "target_modules")
OF_MODE = {"full": (), "lora": OF_LORA, "qlora": (*OF_LORA, "quantization", "double_quantization")}
SIZES = re.compile("(hidden|intermediate|vocab)_size|head_dim|num_.*(layers|heads|experts|per_tok)")
FOUND = ("device", "device_name", "num_devices", "peak_flops_per_second", "peak_dtype", "peak_measured")
TAGGED_ALREADY = re.compile("(framework|model|mode|repeat|resume)$|tracking")  # or not worth a tag
LONGEST_TAG = 64  # W&B's limit


def config(result: Result) -> dict[str, Any]:
    """Return what describes a run, resolved and nested as in conf/: at most 60 values, and the framework's `native` config."""
    settings, hardware, plan = result.settings, result.hardware, result.plan
    hidden = {*OUTSIDE_THE_WORK, "liger", *(LEFT_OPEN if settings["comparison"] == "defaults" else ())}
    shown = {name: value for name, value in settings.items() if name not in hidden}
    told = {name: _known(value, OF_ANY_GROUP) if isinstance(value, Mapping) else value for name, value in shown.items()}
    told["mode"] |= _known(settings["mode"], OF_MODE.get(settings["mode"]["name"], ()))
    architecture = settings["model"]["architecture"]
    told["model"]["architecture"] = _known(architecture, list(filter(SIZES.fullmatch, architecture)))
    told["framework"] |= {"label": result.framework} | ({"engine": result.engine} if result.engine else {})
    if told.get("liger_kernel"):
        told["liger"] = [kernel for kernel, on in settings["liger"].items() if on]
    if hardware:
        told |= {"precision": hardware.precision, "hardware": _known(asdict(hardware), FOUND)}
    if plan:
        told["native"] = json.loads(plan.config) if plan.config_file.endswith(".json") else yaml.safe_load(plan.config)
    told["versions"] = {"mfubench": result.provenance.mfubench, **weighty_versions(result)}
    return told | {"commit": result.provenance.commit, "started_at": result.started_at}


def history(result: Result) -> list[dict[str, float]]:
    """A row per step, at the run's own time; none unless the run is ok."""
    rows, seconds = [], datetime.fromisoformat(result.started_at).timestamp()
    for row in result.history if result.status == "ok" else ():
        seconds += row["step_time_s"]
        rows.append({**row, "_timestamp": seconds})
        if (rate := row.get("hardware_tflops_per_second_per_device")) is not None:
            rows[-1][PROFILED] = round(rate * row["step_time_s"], 12)  # to whole FLOPs
    return rows


def summary(result: Result) -> dict[str, Any]:
    """Return the scalars of a result, each a column in W&B; what isn't known is left out.

    They are status, reason, kinds of warnings and the run's duration (`_wandb.runtime`); for an ok run every figure with its
    interval, and the conditions of each device (`machine/0/power_w_mean`). `profiled_tflop_per_step` is what PyTorch's counter
    counts (hardware FLOPs), per optimizer step and device; `profiled_in_situ_tflop_per_step` is the same of one warm-up step,
    counted in the framework's process.
    """
    warnings = ", ".join(_kinds(result)) or None
    figures: dict[str, Any] = {"status": result.status, "reason": result.reason, "warnings": warnings}
    if result.outcome:
        figures |= {"_runtime": result.outcome.wall_s, "_wandb": {"runtime": round(result.outcome.wall_s)}}
    if result.status == "ok":
        assert result.measurement is not None and result.flops is not None
        measured = asdict(result.measurement)
        if not measured["ci95"]:
            figures["ci95/none"] = f"{measured['steps']} steps: no interval"
        for name, (low, high) in measured.pop("ci95").items():
            figures |= {f"ci95/{name}_low": low, f"ci95/{name}_high": high}
        figures |= {_column(name): figure for name, figure in measured.items()}
        for name, flops in (("profiled", result.flops.hardware_flops), ("model", result.flops.model_flops)):
            figures[f"{name}_tflop_per_step"] = None if flops is None else flops / 1e12
        figures["counts/trainable_parameters"] = result.flops.trainable_parameters
        if result.in_situ and result.in_situ.flops:
            figures["profiled_in_situ_tflop_per_step"] = result.in_situ.flops / 1e12
        explained = result.explanation.figures if result.explanation else {}
        figures |= {name.replace(".", "/"): figure for name, figure in explained.items()}
        for index, conditions in enumerate(result.conditions):
            each = leaves(asdict(conditions), f"machine/{index}/")
            figures |= {re.sub("[ .]", "_", name): value for name, value in each}
    return {name: figure for name, figure in figures.items() if figure not in (None, "")}


def kernels(result: Result) -> list[list[str | float]]:
    """Return a row for each kernel, or operator of a CPU, of the profile of an ok run, as KERNEL_COLUMNS."""
    found = result.explanation.kernels if result.explanation and result.status == "ok" else ()
    return [[each.name, each.category, each.calls, each.seconds * 1e3] for each in found]


def tags(result: Result) -> list[str]:
    """Return the tags by which a table's runs are filtered; the user's other settings are among them."""
    names = [result.settings["model"]["name"], result.settings["mode"]["name"]]
    given = [o for o in result.provenance.overrides or () if not TAGGED_ALREADY.match(key_of(o))]
    every = (result.framework, *names, result.status, *_kinds(result), *given)
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in every))


def _known(tree: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: tree[key] for key in keys if tree.get(key) is not None}


def _column(name: str) -> str:
    """Return a figure's column: a headline is one that tables or the history have."""
    metric = BY_NAME.get(name)
    group = "counts/" if metric and metric.unit == "count" else "measured/"
    # A process is a rank, too, as is the width of LoRA's matrices in the config.
    return name if metric and (metric.heading or metric.per_step) else group + name.replace("rank", "process")


def _kinds(result: Result) -> list[str]:
    """Return the kinds of the warnings, each once, in the result's order."""
    return list(dict.fromkeys(warning.kind for warning in result.warnings))
