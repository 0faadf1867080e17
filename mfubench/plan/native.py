"""Make the plan of a run: the command, the environment, the native config, the number of steps and the time limit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mfubench.config import ConfigError, Experiment
from mfubench.plan import deepspeed, support
from mfubench.plan.interpolation import drop_nulls, resolve, spliced
from mfubench.plan.nodes import NODE, ONE_HOST, Nodes, run_id
from mfubench.plan.plan import Plan
from mfubench.workload import FORMS, Workload

DEEPSPEED_CONFIG = "deepspeed.json"
PROFILE_FLOPS = "MFUBENCH_PROFILE_FLOPS"  # to the probe
EXTRA_STEPS = 2  # one, so that the last period has an end; one, so that the framework is not already closing down then
PROFILE_EXTRA_STEPS = 3  # one before the profiled steps, one at whose begin they end, one more, as above


@dataclass(frozen=True)
class Place:
    """The folders, programs and device with which a run is started."""

    folder: Path  # the run folder, absolute
    launchers: Path
    root: Path  # a framework's relative interpreter is looked up from here
    python: str  # mfubench's own interpreter
    device: str  # cpu | cuda
    precision: str  # resolved: bf16 | bf16_pure | fp32
    threads_per_rank: int  # on a CPU; on a GPU it is left to the framework
    engine: str | None = None  # of the framework
    visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES of mfubench itself; None: unset
    nodes: Nodes = ONE_HOST
    tf32: bool = True  # the GPU has it


def max_steps(experiment: Experiment) -> int:
    """Return the optimizer steps to ask of the framework, so that all measured step periods lie within its training."""
    measurement = experiment.measurement
    profiled = measurement.profile_steps + PROFILE_EXTRA_STEPS if measurement.profile_steps else 0
    return measurement.warmup_steps + measurement.steps + EXTRA_STEPS + profiled


def num_samples(experiment: Experiment) -> int:
    """Return the number of sequences that the framework reads in all its steps, on all devices."""
    per_step = experiment.batch_size * experiment.gradient_accumulation_steps * experiment.parallelism.num_devices
    return max_steps(experiment) * per_step


def threads_per_rank(cores: int, num_ranks: int) -> int:
    """Return the threads of each rank on a CPU: the cores divided by the ranks, at least 1."""
    return max(1, cores // num_ranks)


def make_plan(experiment: Experiment, workload: Workload, place: Place) -> Plan:
    """Return the plan of a run.

    Raises:
        Unsupported: the framework's YAML has no branch for a value.
        ConfigError: the YAML interpolates a name that doesn't exist, or DeepSpeed's options contradict the settings.
    """
    framework = experiment.framework
    config_path = place.folder / framework.config_file
    known = _known(experiment, workload, place, config_path)
    values = support.values_of(experiment, place.device, place.precision, place.engine, place.tf32)
    for form, row in workload.first_other.items():
        if f"workload.{form}_path" in support.mapped_settings(framework, values):
            raise support.Unsupported(
                f"{framework.name} trains on rows of {FORMS[form]}, and row {row} of data={experiment.data.name} is "
                "another conversation; leave such rows out, or try a framework that reads any"
            )
    where = f"conf/framework/{framework.name}.yaml"
    native = drop_nulls(resolve(where, support.layers(framework, values), known))
    command = resolve(where, [{"command": framework.command}], known)["command"]
    cluster = resolve(f"conf/cluster/{experiment.cluster.name}.yaml", [asdict(experiment.cluster)], known)
    environment = drop_nulls(resolve(where, [framework.environment], known))
    files = drop_nulls(resolve(where, [framework.files], known))
    return Plan(
        command=tuple(spliced(command)),
        environment=_visible_devices(place, experiment.parallelism.devices_per_node)
        | ({} if place.nodes.rank is None else {NODE: place.nodes.names[place.nodes.rank]})
        | {key: str(value) for key, value in environment.items()}
        | ({PROFILE_FLOPS: "1"} if experiment.measurement.profile_flops else {}),
        config_path=config_path,
        config_text=_file_text(native, config_path.suffix),
        other_files={name: _file_text(tree, Path(name).suffix) for name, tree in files.items()}
        | _deepspeed_file(experiment, values, known, place.precision),
        folder=place.folder,
        num_ranks=experiment.parallelism.num_devices,
        max_steps=max_steps(experiment),
        periods=experiment.measurement.warmup_steps + experiment.measurement.steps,
        timeout_s=experiment.measurement.timeout_s,
        per_node=tuple(spliced(cluster["per_node"])),
        end=None if place.nodes.rank else cluster["end"],
        shared=place.nodes.shared,
    )


def _known(experiment: Experiment, workload: Workload, place: Place, config_path: Path) -> dict[str, Any]:
    """Return all that ${...} may name in a framework's YAML."""
    own = experiment.framework.python
    python = place.python if own is None else str(place.root / own)
    known = {f: getattr(experiment, f) for f in support.SCALARS}
    for group in ("mode", "parallelism", "model", "data", "liger", "cluster"):
        known[group] = asdict(getattr(experiment, group))
    return known | {
        "framework": {"random_weights": experiment.framework.random_weights},
        "workload": {**asdict(workload), "turns_path": workload.messages_path},
        "precision": place.precision,
        "variables": experiment.framework.variables,
        "deepspeed_config": str(place.folder / DEEPSPEED_CONFIG),
        "run": {
            "python": python,
            "bin": str(Path(python).parent),  # where an environment's programs lie
            "folder": str(place.folder),
            "launchers": str(place.launchers),
            "config_path": str(config_path),
            "scratch": str(place.folder / "scratch"),
            "max_steps": max_steps(experiment),
            "device": place.device,
            "id": run_id(place.folder),
            "devices_per_node": experiment.parallelism.devices_per_node,
            **place.nodes.words,
            "offline": str(int(experiment.model.weights == "random")),
        },
    }


def _deepspeed_file(
    experiment: Experiment, values: support.Values, known: Mapping[str, Any], precision: str
) -> dict[str, str]:
    layers = deepspeed.deepspeed_layers(experiment, values)
    if layers is None:
        return {}
    tree = drop_nulls(resolve(f"conf/parallelism/{experiment.parallelism.name}.yaml", layers, known))
    deepspeed.check_deepspeed(tree, experiment, precision)
    return {DEEPSPEED_CONFIG: _file_text(tree, ".json")}


def _visible_devices(place: Place, num_devices: int) -> dict[str, str]:
    """Show the framework only the devices asked for: some spread one process's batch over every GPU they see."""
    if place.device == "cpu":
        return {"OMP_NUM_THREADS": str(place.threads_per_rank), "CUDA_VISIBLE_DEVICES": ""}
    seen = range(num_devices) if place.visible_devices is None else place.visible_devices.split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(device).strip() for device in list(seen)[:num_devices])}


def _file_text(native: Mapping[str, Any], suffix: str) -> str:
    if suffix == ".json":
        return json.dumps(native, indent=2) + "\n"
    if suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"a native config that ends in {suffix} can't be written",
            given=f"framework.config_file=...{suffix}",
            expected="a name that ends in .yaml, .yml or .json",
        )
    return yaml.safe_dump(dict(native), sort_keys=False, allow_unicode=True)
