"""The stages before a run. In: an Experiment. Out: Evidence with machine, engine, workload, FLOPs, plan and peak.

A stage raises one of CANT where this machine or this framework can't do what was asked, NotInstalled where the framework
isn't here, ConfigError for what is wrong on any machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from mfubench import hardware, workload
from mfubench.config import ConfigError, Experiment, WrongCombination
from mfubench.config.defaults import defaults
from mfubench.config.overrides import no_secret_in
from mfubench.config.validate import validate
from mfubench.files.paths import LAUNCHERS, ROOT, cache_folder
from mfubench.flops import step_flops
from mfubench.flops.crosscheck import recounted
from mfubench.launch.start import answers, run_together
from mfubench.measure.evidence import Evidence
from mfubench.plan import engines, support
from mfubench.plan.native import Place, make_plan, num_samples, plan_as_json, threads_per_rank

if TYPE_CHECKING:
    from mfubench.flops.memory import ExpectedMemory

CANT = (support.Unsupported, hardware.Unavailable, hardware.UnknownPeak, workload.NoData)


def on_this_machine(so_far: Evidence) -> Evidence:
    """What `auto` stands for here, and the engine that is here."""
    experiment = so_far.experiment
    machine = hardware.detect(experiment.hardware)
    if not experiment.dry_run:
        engines.check_installed(experiment.framework, ROOT)
    framework, engine = engines.choose(experiment.framework, answers)
    return replace(
        so_far,
        experiment=replace(experiment, framework=framework),
        engine=engine,
        machine=machine,
        precision=hardware.resolve_precision(experiment.precision, machine),
    )


def planned(so_far: Evidence, console: Console) -> Evidence:
    """All that is known before the start. Raises where nothing can be started."""
    experiment, machine, precision = so_far.experiment, so_far.machine, so_far.precision
    assert machine is not None and precision is not None
    validate(experiment)
    known = defaults(experiment.mode.name)
    support.check(experiment, support.values_of(experiment, machine.device, precision, so_far.engine), known)
    support.check_devices(experiment.parallelism, machine)

    console.print("preparing the workload, counting its FLOPs", style="dim")
    with _wrong_combination(experiment):
        prepared = workload.prepare(
            experiment.model,
            experiment.data,
            sequence_length=experiment.sequence_length,
            num_samples=num_samples(experiment),
            seed=experiment.seed,
            weights_on_disk=experiment.framework.random_weights == "disk",
            dtype="float32" if precision == "fp32" else "bfloat16",
            folder=cache_folder(),
            dry=experiment.dry_run,
        )
        flops = step_flops(experiment)
    threads = threads_per_rank(machine.cores, experiment.parallelism.num_devices)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    place = Place(
        so_far.folder, LAUNCHERS, ROOT, sys.executable, machine.device, precision, threads, so_far.engine, visible
    )
    made = make_plan(experiment, prepared, place)
    for text in (made.config_text, *made.other_files.values(), *made.environment.values(), *made.command):
        no_secret_in(text, "what the framework would be given")
    (so_far.folder / "plan.json").write_text(json.dumps(plan_as_json(made), indent=1))
    return replace(so_far, plan=made, workload=prepared, flops=flops, second_count=recounted(experiment, flops))


def check_memory(so_far: Evidence) -> None:
    """Raise Unsupported where the weights alone are more than a CPU's memory."""
    assert so_far.machine is not None and so_far.precision is not None and so_far.flops is not None
    support.check_memory(so_far.flops.parameters, so_far.experiment.mode, so_far.precision, so_far.machine)


def held_against(so_far: Evidence, console: Console) -> Evidence:
    """The peak; a CPU's is measured now."""
    experiment, machine, precision = so_far.experiment, so_far.machine, so_far.precision
    assert machine is not None and precision is not None
    num_ranks = experiment.parallelism.num_devices
    if machine.device == "cpu" and experiment.hardware.peak_flops_per_second is None:
        console.print("measuring the CPU's peak", style="dim")
    dtype = hardware.peak_dtype(precision, machine.device)
    threads = threads_per_rank(machine.cores, num_ranks)
    peak = hardware.peak(experiment.hardware, machine, dtype, num_ranks, threads, run_together)
    ceiling = None
    if peak.measured:
        ceiling = hardware.Ceiling(peak.flops_per_second, peak.source)
    elif experiment.hardware.measure_ceiling and not experiment.dry_run:
        console.print("measuring the device's ceiling", style="dim")
        ceiling = hardware.ceiling(machine, dtype, num_ranks, threads, run_together)
    return replace(so_far, peak=peak, ceiling=ceiling)


def expected_memory(so_far: Evidence) -> ExpectedMemory:
    """What one device is expected to need."""
    from mfubench.flops import memory

    experiment, machine, precision = so_far.experiment, so_far.machine, so_far.precision
    assert machine is not None and precision is not None
    deepspeed = experiment.parallelism.deepspeed or {}
    zero = deepspeed.get("zero_optimization", {})
    return memory.expected(
        experiment.model.architecture,
        experiment.mode,
        precision=precision,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        batch_size=experiment.batch_size,
        sequence_length=experiment.sequence_length,
        optimizer=experiment.optimizer,
        device=machine.device,
        gradient_accumulation_steps=experiment.gradient_accumulation_steps,
        fused_linear_cross_entropy=experiment.liger_kernel and experiment.liger.fused_linear_cross_entropy,
        parallelism=experiment.parallelism.name,
        num_devices=experiment.parallelism.num_devices,
        reduce_bucket_size=zero.get("reduce_bucket_size", 500_000_000),
        overlap_comm=zero.get("overlap_comm", True),
    )


@contextmanager
def _wrong_combination(experiment: Experiment) -> Iterator[None]:
    """What a stage refuses as a ValueError is what the user asked for."""
    try:
        yield
    except ConfigError:
        raise  # it says so itself
    except ValueError as error:
        given = f"framework={experiment.framework.name} model={experiment.model.name} mode={experiment.mode.name}"
        raise WrongCombination(str(error), given=given, expected="a workload that this model can train") from error
