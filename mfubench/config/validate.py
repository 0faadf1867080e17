"""Validate an Experiment: ConfigError for settings that are wrong on any machine. Pure."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from mfubench.config.defaults import defaults, options_of, rules
from mfubench.config.errors import ConfigError, WrongCombination, nearest, quoted
from mfubench.config.schema import Data, Experiment, Framework
from mfubench.config.vocabulary import (
    ATTENTIONS,
    COMPARISONS,
    DEVICES,
    LEFT_OPEN,
    LOSSES,
    PADDINGS,
    PRECISIONS,
    QUANTIZATIONS,
    RANDOM_WEIGHTS,
    TRACKING_MODES,
    WEIGHTS,
)

# Whole numbers: setting → the least.
AT_LEAST = {
    "batch_size": 1,
    "sequence_length": 2,
    "gradient_accumulation_steps": 1,
    "seed": 0,
    "repeat": 0,
    "parallelism.num_devices": 1,
    "parallelism.num_nodes": 1,
    "cluster.join_timeout_s": 1,
    "measurement.warmup_steps": 0,
    "measurement.steps": 2,
    "measurement.minimum_steps": 2,
    "measurement.profile_steps": 0,
}
# Numbers greater than 0, or null: setting → an example.
ABOVE_ZERO = {
    "hardware.peak_flops_per_second": 312e12,
    "hardware.memory_bytes": 80e9,
    "hardware.multiprocessors": 132,
    "hardware.flops_per_clock": 4096,
    "hardware.price_per_hour": 2.5,
    "measurement.timeout_s": 1800,
    "measurement.seconds": 60,
    "measurement.stall_s": 600,
    "mode.alpha": 16,
}
# Words, or null: setting → those that it may be.
ONE_OF = {
    "precision": PRECISIONS,
    "attention": ATTENTIONS,
    "framework.random_weights": RANDOM_WEIGHTS,
    "framework.loss": LOSSES,
    "model.weights": WEIGHTS,
    "mode.quantization": QUANTIZATIONS,
    "tracking.mode": TRACKING_MODES,
    "hardware.device": DEVICES,
    "data.padding": PADDINGS,
    "comparison": COMPARISONS,
}
STEPS_TO_PROFILE = 3  # of warm-up


def validate(experiment: Experiment) -> None:
    """Raise ConfigError for a setting that is wrong on any machine, WrongCombination for settings that exclude each other."""
    _validate_values(experiment)
    for part, value, expected in _malformed(experiment.framework):
        raise ConfigError(f"framework.{part} can't be {value}", given=f"framework.{part}={value}", expected=expected)
    if experiment.framework.engine is not None:
        _one_of("framework.engine", experiment.framework.engine, _engines(experiment.framework))
    if experiment.comparison == "defaults":
        _validate_left_open(experiment)
    _validate_combinations(experiment)
    _validate_model(experiment)
    _validate_data(experiment.data)


def _validate_values(experiment: Experiment) -> None:
    """Raise ConfigError for a value that is wrong whatever the others are."""
    for setting, least in AT_LEAST.items():
        if (number := attrgetter(setting)(experiment)) < least:
            _reject(setting, number, f"a whole number, at least {least}", least)
    for setting, example in ABOVE_ZERO.items():
        number = attrgetter(setting)(experiment)
        if number is not None and not 0 < number < math.inf:
            _reject(setting, number, "a number greater than 0", f"{example:g}")
    for setting, valid in ONE_OF.items():
        if (word := attrgetter(setting)(experiment)) is not None:
            _one_of(setting, word, valid)
    if experiment.framework.trainer is not None:
        _one_of("framework.trainer", experiment.framework.trainer, tuple(rules()))
    if experiment.seed >= 2**32:
        _reject("seed", experiment.seed, "less than 2**32, as numpy takes it", 0)
    precision, mode = experiment.measurement.relative_precision, experiment.mode
    if precision is not None and not 0 < precision < 1:
        _reject("measurement.relative_precision", precision, "a fraction, as 0.01 for ±1 %", 0.01)
    if mode.rank is not None and mode.rank < 1:
        _reject("mode.rank", mode.rank, "a whole number, at least 1", 8)
    if mode.dropout is not None and not 0 <= mode.dropout < 1:
        _reject("mode.dropout", mode.dropout, "at least 0 and less than 1", 0.05)
    if mode.use_dora:
        _reject("mode.use_dora", "true", "false: DoRA's products aren't counted, so no FLOPs would be right", "false")
    targets = mode.target_modules
    if targets is not None and not (isinstance(targets, str) or (targets and all(isinstance(t, str) for t in targets))):
        _reject("mode.target_modules", targets, "the names of linear layers", "[q_proj,v_proj]")
    try:
        re.compile(targets if isinstance(targets, str) else "")
    except re.error as error:
        _reject("mode.target_modules", targets, f"all-linear or a regular expression: {error}", "all-linear")


def _validate_left_open(experiment: Experiment) -> None:
    """With comparison=defaults, no setting that is left to the framework may be set."""
    known = defaults(experiment.mode.name)
    asked = {name: getattr(experiment, name) for name in LEFT_OPEN}
    asked["gradient_checkpointing"] = experiment.gradient_checkpointing.name
    for name, value in asked.items():
        if value != known[name]:
            raise WrongCombination(
                f"comparison=defaults leaves {name} to the framework",
                given=f"comparison=defaults {name}={str(value).lower()}",
                expected=f"comparison=equal for all of {', '.join(LEFT_OPEN)}",
                instead=f"comparison=equal {name}={str(value).lower()}",
            )


def _validate_combinations(experiment: Experiment) -> None:
    """Raise WrongCombination for settings that exclude each other."""
    parallelism, measurement, liger = experiment.parallelism, experiment.measurement, experiment.liger
    if parallelism.num_devices > 1 and not parallelism.launcher:
        raise WrongCombination(
            f"parallelism={parallelism.name} runs on one device",
            given=f"parallelism.num_devices={parallelism.num_devices}",
            expected="1, or a parallelism that starts several ranks",
            instead=f"parallelism=ddp parallelism.num_devices={parallelism.num_devices}",
        )
    _validate_nodes(experiment)
    if experiment.liger_kernel and liger.cross_entropy and liger.fused_linear_cross_entropy:
        raise WrongCombination(
            "Liger computes the loss in one of two kernels",
            given="liger.cross_entropy=true",
            expected="liger.cross_entropy or liger.fused_linear_cross_entropy, not both",
            instead="liger.cross_entropy=true liger.fused_linear_cross_entropy=false",
        )
    if measurement.profile_flops and measurement.warmup_steps < STEPS_TO_PROFILE:
        raise WrongCombination(
            "measurement.profile_flops=true counts the FLOPs of a warm-up step while it runs: the second, and one must follow it",
            given=f"measurement.warmup_steps={measurement.warmup_steps}",
            expected=f"a whole number, at least {STEPS_TO_PROFILE}",
            instead=f"measurement.warmup_steps={STEPS_TO_PROFILE}",
        )
    if measurement.profile_steps > measurement.steps:
        raise WrongCombination(
            f"a profile of {measurement.profile_steps} steps can't explain the mean of {measurement.steps}",
            given=f"measurement.profile_steps={measurement.profile_steps} measurement.steps={measurement.steps}",
            expected="no more steps profiled than measured",
            instead=f"measurement.profile_steps={min(measurement.steps, 3)}",
        )
    if measurement.keep_trace and not measurement.profile_steps:
        raise WrongCombination(
            "a trace is of the profiled steps",
            given="measurement.keep_trace=true measurement.profile_steps=0",
            expected="steps to profile, or measurement.keep_trace=false",
            instead="measurement.keep_trace=true measurement.profile_steps=3",
        )


def _validate_nodes(experiment: Experiment) -> None:
    """Raise WrongCombination for nodes that the devices can't be spread over, or that nobody would start."""
    cluster, nodes, devices = experiment.cluster, experiment.parallelism.num_nodes, experiment.parallelism.num_devices
    given = f"parallelism.num_nodes={nodes}"
    if devices % nodes:
        raise WrongCombination(
            f"{devices} device(s) can't be spread evenly over {nodes} nodes",
            given=given,
            expected="parallelism.num_devices, which counts those of all nodes, to be a multiple of it",
            instead=f"{given} parallelism.num_devices={nodes * max(1, round(devices / nodes))}",
        )
    if nodes > 1 and not cluster.several:
        raise WrongCombination(
            f"cluster={cluster.name} is one host",
            given=given,
            expected=f"1, or another cluster: {', '.join(each for each in options_of('cluster') if each != cluster.name)}",
            instead="parallelism.num_nodes=1",
        )


def _validate_model(experiment: Experiment) -> None:
    model = experiment.model
    if model.weights == "hub" and model.hub_id is None:
        raise WrongCombination(
            f"the model {model.name} is not on the hub",
            given="model.weights=hub",
            expected="a model with a hub_id, or model.weights=random",
            instead="model.weights=random",
        )
    if model.weights == "random" and model.revision is not None:
        raise WrongCombination(
            "random weights have no revision",
            given=f"model.revision={model.revision}",
            expected="a revision only with weights from the hub",
            instead=f"model.weights=hub model.revision={model.revision}",
        )
    limit = model.architecture.get("max_position_embeddings")
    if isinstance(limit, int) and experiment.sequence_length > limit:
        raise WrongCombination(
            f"{model.name} reads at most {limit} positions",
            given=f"sequence_length={experiment.sequence_length}",
            expected=f"2 to {limit}",
            instead=f"sequence_length={limit}",
        )


def _validate_data(data: Data) -> None:
    from_file = "data=jsonl " + shlex.quote(f"data.path={quoted(data.path or 'FILE')}")
    if data.name == "synthetic" and (data.path is not None or data.hub_id is not None):
        given = f"data.path={data.path}" if data.path is not None else f"data.hub_id={data.hub_id}"
        right = from_file if data.path is not None else f"data=alpaca data.hub_id={data.hub_id}"
        raise WrongCombination(
            "synthetic data are made, not read", given=given, expected="neither a path nor a hub_id", instead=right
        )
    if data.path is not None and data.hub_id is not None:
        given, expected = f"data.path={data.path}", f"either a file or {data.hub_id} of the hub"
        raise WrongCombination("data come from one place", given=given, expected=expected, instead=from_file)
    if data.revision is not None and data.hub_id is None:
        given, expected = f"data.revision={data.revision}", "a revision only of a dataset on the hub"
        raise WrongCombination("these data have no revision", given=given, expected=expected)
    if data.name != "synthetic" and data.path is None and data.hub_id is None:
        given, expected = f"data={data.name}", "a file, a folder or a pattern: data.path=FILE"
        right = f"data={data.name} data.path=FILE"
        raise WrongCombination("there is no file to train on", given=given, expected=expected, instead=right)


def _engines(framework: Framework) -> tuple[str, ...]:
    if not framework.engines:
        raise ConfigError(
            f"{framework.name} is started in one way only",
            given=f"framework.engine={framework.engine}",
            expected="no engine",
            instead="framework.engine=null",
        )
    return tuple(engine["name"] for engine in framework.engines)


def _one_of(setting: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        _reject(setting, value, "one of " + ", ".join(valid), (nearest(value, valid) or [valid[0]])[0])


def _reject(setting: str, value: object, expected: str, example: object) -> None:
    raise ConfigError(
        f"{setting} can't be {value}", given=f"{setting}={value}", expected=expected, instead=f"{setting}={example}"
    )


def _malformed(framework: Framework) -> Iterator[tuple[str, Any, str]]:
    """Each part without the structure of conf/framework/'s files: its key, its value, the expected structure."""
    if not framework.command and not framework.engines:
        yield "command", framework.command, "a list of words: a program and its arguments"
    for engine in framework.engines or []:
        if not isinstance(engine, dict):
            yield "engines", engine, "a list of mappings"
    for rule in framework.unsupported:
        if not isinstance(rule, dict) or "because" not in rule:
            yield "unsupported", rule, "a list of mappings of settings to values, each with `because`"
    yield from _malformed_branches("when", framework.when)


def _malformed_branches(part: str, when: Any) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(when, dict):
        yield part, when, "a mapping of settings to branches"
        return
    for setting, branches in when.items():
        if not isinstance(branches, dict):
            yield f"{part}.{setting}", branches, "a mapping of its values to native keys"
            continue
        for value, content in branches.items():
            where = f"{part}.{setting}.{value}"
            if not isinstance(content, dict | None):
                yield where, content, "a mapping of native keys, or nothing"
            elif content and "when" in content:
                yield from _malformed_branches(f"{where}.when", content["when"])
