"""Decide if a framework can do what is asked, and choose the layers of its native config.

The keys under a framework's `when`, less its `unsupported` and the rules of conf/rules.yaml, are its support matrix. A
setting that is neither under `when` nor interpolated can only have its default, so no switch is silently ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from mfubench.config import ConfigError, Experiment, Framework, Liger, Mode, Parallelism
from mfubench.config.defaults import extras, rules
from mfubench.config.schema import ALL_LINEAR
from mfubench.config.vocabulary import FRAMEWORK_GROUPS, LEFT_OPEN
from mfubench.hardware.machine import Machine

# Settings that a framework must obey, beside FRAMEWORK_GROUPS.
SCALARS = (
    "batch_size",
    "sequence_length",
    "gradient_accumulation_steps",
    "precision",
    "attention",
    "liger_kernel",
    "torch_compile",
    "optimizer",
    "seed",
    "comparison",
)
MODE_SETTINGS = tuple(f"mode.{setting.name}" for setting in fields(Mode) if setting.name != "name")
LIGER_SETTINGS = tuple(f"liger.{switch.name}" for switch in fields(Liger))
NODES_WORDS = {"parallelism.launcher", "cluster.rendezvous", "run.num_nodes"}  # each tells a framework of its nodes
INTERPOLATION = re.compile(r"\$\{([a-z_.]+)\}")

Values = Mapping[str, Any]


class Unsupported(Exception):
    """This framework, or this machine, can't do what was asked; `str()` is the reason."""


def values_of(
    experiment: Experiment, device: str, precision: str, engine: str | None = None, tf32: bool = True
) -> dict[str, Any]:
    """Return the values that `when` and `unsupported` are matched against.

    These are options by name, top-level settings, the device, the resolved precision and the engine that runs.
    """
    values: dict[str, Any] = {name: getattr(experiment, name).name for name in FRAMEWORK_GROUPS}
    values |= {name: getattr(experiment, name) for name in SCALARS}
    values |= {name: _setting(experiment, name) for name in LIGER_SETTINGS}
    architecture = experiment.model.architecture
    values |= {word: architecture.get(word) for word in ("model_type", "tie_word_embeddings")}
    values["weights"] = experiment.model.weights
    values |= {name: _setting(experiment, name) for name in ("data.padding", "framework.random_weights")}
    targets = experiment.mode.target_modules or []
    kind = "regex" if isinstance(targets, str) else "one_name" if len(targets) == 1 else "names"
    values["mode.target_modules"] = targets if isinstance(targets, str) else ",".join(targets)
    values["mode.target_modules.kind"] = ALL_LINEAR if targets == ALL_LINEAR else kind
    values["mode.modules_to_save.given"] = bool(experiment.mode.modules_to_save)
    values["lora_on_lm_head"] = experiment.mode.adapts("lm_head")
    return values | {"precision": precision, "device": device, "tf32": tf32 and device == "cuda", "engine": engine}


def layers(framework: Framework, values: Values) -> list[dict[str, Any]]:
    """Return `base`, the chosen branches of `when` in order, then the user's `native`. Raises Unsupported."""
    return [framework.base, *(content for _, content in _branches_of(framework, values)), framework.native]


def mapped_settings(framework: Framework, values: Values) -> set[str]:
    """Return the settings that reach this framework: those that choose a branch, and those interpolated in its layers."""
    chosen = [framework.command, framework.environment, framework.files, *layers(framework, values)]
    return {*_interpolated(chosen), *(setting for setting, _ in _branches_of(framework, values))}


def branches(owner: str, when: Mapping[str, Any], values: Values) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (setting, content) of the chosen branches in order. Raises Unsupported, naming `owner`, if a branch is missing."""
    for setting, options in when.items():
        _must_be_known(setting, f"{owner}: `when`", values)
        chosen = [content for value, content in options.items() if _matches(values[setting], value)]
        if not chosen:
            known = ("; " if setting == "mode.target_modules" else ", ").join(map(_as_written, options))
            raise Unsupported(f"{owner} does not support {setting}={_as_written(values[setting])}; it supports {known}")
        content = dict(chosen[0] or {})
        nested = content.pop("when", {})
        yield setting, content
        yield from branches(owner, nested, values)


def check_supported(experiment: Experiment, values: Values, defaults: Values) -> None:
    """Raise Unsupported if the framework can't do what is asked. `defaults` maps settings to their default values."""
    framework = experiment.framework
    _check_rules(framework.name, f"{framework.name}: `unsupported`", framework.unsupported, values)
    mapped = mapped_settings(framework, values)
    general = [*rules()["any"], *rules().get(framework.trainer or "", ())]
    _check_rules(framework.name, "conf/rules.yaml", general, values)
    if experiment.parallelism.num_nodes > 1 and not NODES_WORDS & {*mapped, *_interpolated(framework.variables)}:
        raise Unsupported(
            f"{framework.name} has no way to set parallelism.num_nodes={experiment.parallelism.num_nodes}; it runs on 1"
        )
    if experiment.model.revision is not None and "workload.revision" not in mapped:
        raise Unsupported(f"{framework.name} has no way to set model.revision={experiment.model.revision}")
    asked = {name: getattr(experiment, name) for name in SCALARS}
    asked |= {name: _setting(experiment, name) for name in MODE_SETTINGS}
    if experiment.liger_kernel:
        asked |= {name: _setting(experiment, name) for name in LIGER_SETTINGS}
        _check_liger(experiment)
    asked |= {name: values[name] for name in FRAMEWORK_GROUPS}
    asked["framework.random_weights"] = values["framework.random_weights"]
    if values["data"] != defaults["data"]:
        asked["data.padding"] = experiment.data.padding
    for setting, value in asked.items():
        default = defaults.get(setting, "its own")  # None: it means nothing in this mode
        reaches = any(name == setting or name.startswith(f"{setting}.") for name in mapped)
        if default is not None and not reaches and value != default:
            raise Unsupported(
                f"{framework.name} has no way to set {setting}={_as_written(value)}; it runs with {_as_written(default)}"
            )


def needed_extras(framework: Framework, values: Values) -> dict[str, str]:
    """Return the packages of conf/extras.toml that a setting needs in this framework: package → that setting."""
    given = {**values, "framework": framework.name}
    left_open = LEFT_OPEN if values["comparison"] == "defaults" else ()
    needed = {}
    for package, extra in extras().items():
        for conditions in extra["settings"]:
            for setting in conditions:
                _must_be_known(setting, f"conf/extras.toml: {package}", given)
            if all(key not in left_open and _matches(given[key], wanted) for key, wanted in conditions.items()):
                needed[package] = ", ".join(f"{key}={_as_written(given[key])}" for key in conditions)
    return needed


def check_devices(parallelism: Parallelism, machine: Machine) -> None:
    """Raise Unsupported if the machine has fewer devices than are asked for."""
    nodes, here = parallelism.num_nodes, machine.num_devices
    if parallelism.devices_per_node > here:
        have = f"{here} core(s) for ranks" if machine.device == "cpu" else f"{here} GPU(s)"
        instead = f"; on {here * nodes}: parallelism.num_devices={here * nodes}"
        where = "a machine that has" if nodes == 1 else f"{nodes} nodes that have each"
        raise Unsupported(f"parallelism.num_devices={parallelism.num_devices} on {where} {have}{instead}")


def too_large(parameters: int, mode: Mode, precision: str, machine: Machine) -> str | None:
    """Say by how much the weights alone exceed a CPU's memory, which the system would run out of; None if they don't."""
    needed = parameters * (0.5 if mode.four_bit else 4 if precision == "fp32" else 2)
    if machine.device == "cpu" and machine.memory_bytes is not None and needed > machine.memory_bytes:
        have = machine.memory_bytes / 2**30
        return f"the weights alone take {needed / 2**30:,.0f} GiB, and this machine has {have:.0f} GiB"
    return None


def inapplicable(experiment: Experiment, defaults: Values) -> Iterator[tuple[str, str, str]]:
    """Yield (setting, value, option) for each setting that changes nothing under this option.

    A sweep over modes gives such settings to a mode without them, or to Liger's kernels while they are off.
    """
    for name in MODE_SETTINGS:
        value = _setting(experiment, name)
        if defaults[name] is None and value is not None:
            yield name, _as_written(value), f"mode={experiment.mode.name}"
    for name in LIGER_SETTINGS:
        value = _setting(experiment, name)
        if not experiment.liger_kernel and value != defaults[name]:
            yield name, _as_written(value), "liger_kernel=false"


def _setting(experiment: Experiment, name: str) -> Any:
    group, _, key = name.partition(".")
    return getattr(getattr(experiment, group), key)


def _check_liger(experiment: Experiment) -> None:
    """Raise Unsupported for a combination in which Liger's kernels would silently skip training."""
    if experiment.liger.fused_linear_cross_entropy and experiment.mode.adapts("lm_head"):
        raise Unsupported(
            "liger.fused_linear_cross_entropy=true with LoRA on lm_head: the kernel uses lm_head's own weight, so its "
            "adapter would never be trained; liger.fused_linear_cross_entropy=false liger.cross_entropy=true trains it"
        )


def _check_rules(owner: str, where: str, given: list[dict[str, Any]], values: Values) -> None:
    """Raise Unsupported for the first rule that the values match, ConfigError for one that names no setting."""
    for rule in given:
        conditions = {key: wanted for key, wanted in rule.items() if key != "because"}
        for setting in conditions:
            _must_be_known(setting, where, values)
        if all(_matches(values[key], wanted) for key, wanted in conditions.items()):
            what = ", ".join(f"{key}={_as_written(values[key])}" for key in conditions)
            raise Unsupported(f"{owner} with {what}: {rule['because']}")


def _must_be_known(setting: str, where: str, values: Values) -> None:
    if setting not in values:
        raise ConfigError(f"{where} names what is no setting", given=setting, expected=f"one of {', '.join(values)}")


def _branches_of(framework: Framework, values: Values) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the framework's chosen branches; under comparison=defaults, without those of settings left to the framework."""
    left_open = LEFT_OPEN if values["comparison"] == "defaults" else ()
    decided = {setting: options for setting, options in framework.when.items() if setting not in left_open}
    return branches(framework.name, decided, values)


def _matches(value: object, wanted: object) -> bool:
    return _as_written(value) in (
        [_as_written(w) for w in wanted] if isinstance(wanted, list) else [_as_written(wanted)]
    )


def _as_written(value: object) -> str:
    """Return a value as it is written in a YAML key or on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _interpolated(tree: object) -> Iterator[str]:
    """Yield every name that is interpolated in a tree of mappings, lists and strings."""
    if isinstance(tree, str):
        yield from INTERPOLATION.findall(tree)
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _interpolated(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _interpolated(value)
