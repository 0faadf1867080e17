"""Prepare a run: resolve what `auto` stands for, count its FLOPs, plan its start, find the peak it is measured against.

A stage raises one of REFUSALS if this machine or this framework can't do what was asked, and ConfigError for what is
wrong on any machine.
"""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_left
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mfubench.config import ConfigError, Experiment, WrongCombination
from mfubench.config.defaults import defaults
from mfubench.config.errors import no_secret_in
from mfubench.config.validate import validate
from mfubench.files.paths import LAUNCHERS, ROOT, cache_folder
from mfubench.flops.counts import FlopCount, SecondCount
from mfubench.flops.crosscheck import compare_counts
from mfubench.flops.step import step_flops
from mfubench.hardware import peaks
from mfubench.hardware.machine import Machine, Unavailable, detect, planned, resolve_precision
from mfubench.hardware.matmul_rates import RunTogether
from mfubench.hardware.peaks import Ceiling, Peak, Peaks, UnknownPeak, peak_dtype
from mfubench.plan import engines, support
from mfubench.plan.engines import Responds
from mfubench.plan.native import Place, make_plan, num_samples, threads_per_rank
from mfubench.plan.nodes import ONE_HOST, Nodes, find_nodes
from mfubench.plan.plan import Plan, plan_file
from mfubench.plan.stage import stage
from mfubench.workload import NoData, NoRoom, Workload, prepare_workload

if TYPE_CHECKING:
    from mfubench.flops.memory import MemoryEstimate

Counted = Callable[[int, int], FlopCount]  # [batch, sequence] of a micro-batch -> its FLOPs
LARGEST_BATCH = 4096  # to look for
REFUSALS = (
    support.Unsupported,
    engines.NotInstalled,
    Unavailable,
    UnknownPeak,
    NoData,
    NoRoom,
    WrongCombination,
)


@dataclass(frozen=True)
class Target:
    """The experiment on this machine, with all that `auto` stands for resolved."""

    experiment: Experiment  # its framework has the command of the engine that runs
    machine: Machine
    precision: str  # bf16 | bf16_pure | fp32
    engine: str | None  # None: the framework has no engines
    threads: int | None = None  # of a rank on a CPU, if the framework chose them; None: the cores divided by the ranks
    nodes: Nodes = ONE_HOST

    @property
    def framework_label(self) -> str:
        """The framework's name as readers are shown it, with its engine."""
        return engines.label(self.experiment.framework.name, self.engine)

    @property
    def num_devices(self) -> int:
        """Devices of the run; each is a data-parallel rank."""
        return self.experiment.parallelism.num_devices

    @property
    def devices_here(self) -> int:
        """Devices of the run on this node."""
        return self.experiment.parallelism.devices_per_node

    @property
    def threads_per_rank(self) -> int:
        """Threads of a rank on a CPU."""
        return self.threads or threads_per_rank(self.machine.cores, self.devices_here)

    @property
    def peak_is_measured(self) -> bool:
        """True for a CPU whose peak the user hasn't given."""
        return self.machine.device == "cpu" and self.experiment.hardware.peak_flops_per_second is None


@dataclass(frozen=True)
class Prepared:
    """All that is known before the start."""

    target: Target
    workload: Workload | None  # None: the command brings its own
    flops: FlopCount  # of one optimizer step on one device
    second_count: SecondCount | None  # of the same step; None: this model or mode has no analytic count
    plan: Plan
    counted: Counted | None = None  # None: as the experiment's architecture says
    unknown: tuple[str, ...] = ()  # figures that will be absent, each with the reason


def resolve(experiment: Experiment, responds: Responds) -> Target:
    """Resolve the device, the precision and the engine for this machine; a dry run may plan for a GPU that isn't here."""
    if experiment.dry_run and experiment.hardware.device_name is not None:
        machine = planned(experiment.hardware, experiment.parallelism.devices_per_node)
    else:
        machine = detect(experiment.hardware)
    framework, engine = engines.choose(experiment.framework, responds)
    precision = resolve_precision(experiment.precision, machine)
    return Target(replace(experiment, framework=framework), machine, precision, engine)


def check(target: Target) -> None:
    """Raise ConfigError for settings that are wrong on any machine, Unsupported for those that can't be met here."""
    experiment, machine = target.experiment, target.machine
    validate(experiment)
    values = support.values_of(experiment, machine.device, target.precision, target.engine)
    support.check_supported(experiment, values, defaults(experiment.mode.name))
    support.check_devices(experiment.parallelism, machine)


def check_installed(target: Target, responds: Responds) -> None:
    """Raise NotInstalled if the framework's environment, or a package in it that a setting needs, is missing; or as `check`."""
    check(target)
    framework = target.experiment.framework
    values = support.values_of(target.experiment, target.machine.device, target.precision, target.engine)
    needed = support.needed_extras(framework, values)
    engines.check_installed(framework, ROOT, needed)
    engines.check_extras(framework, needed, ROOT, responds)


def visit(target: Target, folder: Path, run_together: RunTogether) -> Target:
    """Find the run's nodes, each of which must see the run folder. Raises Unavailable."""
    own = target.experiment.framework.python
    cache_folder().mkdir(parents=True, exist_ok=True)
    needs = [Path(sys.executable) if own is None else ROOT / own, LAUNCHERS, cache_folder()]
    return replace(target, nodes=find_nodes(target.experiment, folder, needs, os.environ, run_together))


def prepare(target: Target, folder: Path, console: Console) -> Prepared:
    """Count the FLOPs, make the workload and write plan.json into the run folder.

    For a run that `check_memory` refuses, no workload is made: its weights may be more than the disk holds, too.
    """
    experiment, machine, precision, nodes = target.experiment, target.machine, target.precision, target.nodes
    check(target)
    try:
        with stage("preparing the workload, counting its FLOPs", console):
            flops = step_flops(experiment)
            made = prepare_workload(
                experiment.model,
                experiment.data,
                sequence_length=experiment.sequence_length,
                num_samples=num_samples(experiment),
                seed=experiment.seed,
                weights_on_disk=experiment.framework.random_weights == "disk",
                dtype="float32" if precision == "fp32" else "bfloat16",
                folder=cache_folder(),
                console=console,
                dry=experiment.dry_run or _too_large(target, flops) is not None,
            )
    except ConfigError:
        raise  # it says so itself
    except ValueError as error:  # of a model or a mode that can't be built
        given = f"framework={experiment.framework.name} model={experiment.model.name} mode={experiment.mode.name}"
        raise WrongCombination(str(error), given=given, expected="a workload that this model can train") from error
    threads, engine, visible = target.threads_per_rank, target.engine, os.environ.get("CUDA_VISIBLE_DEVICES")
    tf32 = machine.has_tf32
    place = Place(
        folder, LAUNCHERS, ROOT, sys.executable, machine.device, precision, threads, engine, visible, nodes, tf32
    )
    plan = make_plan(experiment, made, place)
    written = plan_file(plan)
    for text in (written.config, *written.other_files.values(), *written.environment.values(), *written.command):
        no_secret_in(text, "what the framework would be given")
    (folder / "plan.json").write_text(json.dumps(asdict(written), indent=1))
    return Prepared(target, made, flops, compare_counts(experiment, flops), plan)


def check_memory(prepared: Prepared) -> None:
    """Raise Unsupported if the weights alone are more than a CPU's memory."""
    if reason := _too_large(prepared.target, prepared.flops):
        raise support.Unsupported(reason)


def _too_large(target: Target, flops: FlopCount) -> str | None:
    return support.too_large(flops.parameters, target.experiment.mode, target.precision, target.machine)


def measure_peaks(target: Target, run_together: RunTogether, console: Console) -> Peaks:
    """Find the device's peak, and its ceiling if that is to be measured; a CPU's peak is measured now."""
    settings, machine, ranks = target.experiment.hardware, target.machine, target.devices_here
    dtype = peak_dtype(target.precision, machine)
    threads = target.threads_per_rank
    with stage("measuring the CPU's peak", console) if target.peak_is_measured else nullcontext():
        peak = peaks.peak(settings, machine, dtype, ranks, threads, run_together)
    ceiling = None
    if peak.measured:
        ceiling = Ceiling(peak.flops_per_second, peak.source)
    elif settings.measure_ceiling and not target.experiment.dry_run:
        with stage("measuring the device's ceiling", console):
            ceiling = peaks.ceiling(machine, dtype, ranks, threads, run_together)
    return Peaks(peak, ceiling)


def known_peak(target: Target, run_together: RunTogether, console: Console) -> Peak | None:
    """Return the peak if it is known without measuring: a GPU's, or the user's own figure."""
    return None if target.peak_is_measured else measure_peaks(target, run_together, console).peak


def largest_batch(target: Target, memory_bytes: int) -> int:
    """Return the largest batch size of a device that its memory holds by the estimate; 0 if even one sequence doesn't fit."""
    from mfubench.flops import memory

    def too_large(batch_size: int) -> bool:
        asked = replace(target, experiment=replace(target.experiment, batch_size=batch_size))
        return not memory.fits(expected_memory(asked), memory_bytes)

    powers = [2**power for power in range(LARGEST_BATCH.bit_length())]
    above = next(filter(too_large, powers), LARGEST_BATCH + 1)
    return bisect_left(range(1, above), True, key=too_large)


def expected_memory(target: Target) -> MemoryEstimate:
    """Estimate the memory that one device needs, in bytes."""
    from mfubench.flops import memory

    experiment = target.experiment
    deepspeed = experiment.parallelism.deepspeed or {}
    zero = deepspeed.get("zero_optimization", {})
    return memory.estimate(
        experiment.model.architecture,
        experiment.mode,
        precision=target.precision,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        batch_size=experiment.batch_size,
        sequence_length=experiment.sequence_length,
        optimizer=experiment.optimizer,
        device=target.machine.device,
        gradient_accumulation_steps=experiment.gradient_accumulation_steps,
        fused_linear_cross_entropy=experiment.liger_kernel and experiment.liger.fused_linear_cross_entropy,
        parallelism=experiment.parallelism.name,
        num_devices=target.num_devices,
        reduce_bucket_size=zero.get("reduce_bucket_size", 500_000_000),
        overlap_comm=zero.get("overlap_comm", True),
    )
