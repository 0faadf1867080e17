"""The program on one screen: an Experiment in, its Result out, every stage one call, in this order."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from mfubench import engines, hardware, metrics, plan, records, support, verdict, workload
from mfubench.caveats import caveats
from mfubench.conclude import Evidence, conclude, describe, now
from mfubench.config import ConfigError, Experiment, WrongCombination
from mfubench.config.defaults import defaults
from mfubench.config.validate import validate
from mfubench.flops import FlopCount, cached_count
from mfubench.launch import answers, interrupted_once, launch, run_together
from mfubench.paths import LAUNCHERS, ROOT, cache_folder
from mfubench.progress import watching
from mfubench.report import Result, write
from mfubench.tracking import track


CANT = (support.Unsupported, hardware.Unavailable, hardware.UnknownPeak)  # not on this machine


def run(experiment: Experiment, folder: Path, group: str | None, console: Console) -> Result:
    """Measure the experiment in the folder; what goes wrong in the run is its result. `group`: the sweep it belongs to.

    Raises ConfigError for what is wrong on any machine, except for a combination inside a sweep, which is a row of it.
    """
    try:  # whoever makes this folder has the run folder: two runs may start in the same second
        (folder / plan.RECORDS).mkdir()
    except FileExistsError as error:
        raise ConfigError(
            "there is a run in this folder already",
            given=str(folder),
            expected="a folder of its own",
            instead=f"hydra.run.dir={folder}-{os.getpid()}",
        ) from error
    so_far = Evidence(experiment, folder, group, started_at=now())
    with interrupted_once():
        try:
            so_far = _on_this_machine(so_far)
            so_far = _planned(so_far, console)
            so_far = _held_against(so_far, console)
            so_far = _measured(so_far, console)
        except CANT as error:
            so_far = replace(so_far, verdict=verdict.Verdict("unsupported", str(error)))
        except engines.NotInstalled as error:
            so_far = replace(so_far, verdict=verdict.Verdict("not_installed", str(error)))
        except WrongCombination as error:
            if group is None:
                raise
            so_far = replace(so_far, verdict=verdict.Verdict("unsupported", str(error)))
        result = conclude(so_far, list(caveats(so_far, defaults(experiment.mode.name))))
        write(result, folder)
    warning = track(result, experiment.tracking, folder)
    if warning:
        console.print(warning, style="yellow")
    return result


def dry_run(experiment: Experiment, folder: Path, group: str | None, console: Console) -> bool:
    """Show what would be run, and whether it fits; False where it can't be. Nothing is started or downloaded.

    Raises ConfigError as `run` does.
    """
    so_far = Evidence(experiment, folder, group, started_at=now())
    try:
        so_far = _planned(_on_this_machine(so_far), console)
        machine, precision, planned, flops = so_far.machine, so_far.precision, so_far.plan, so_far.flops
        assert machine is not None and precision is not None and planned is not None and flops is not None
        peak = None
        if machine.device == "cuda" or experiment.hardware.peak_flops_per_second is not None:
            peak = _held_against(so_far, console).peak
    except (*CANT, engines.NotInstalled) as error:
        console.print(f"unsupported: {error}", style="red", markup=False, highlight=False)
        return False
    except WrongCombination as error:
        if group is None:
            raise
        console.print(f"unsupported: {error}", style="red", markup=False, highlight=False)
        return False
    write_files(planned)
    settings = in_words(asdict(experiment), label(experiment.framework.name, so_far.engine), precision)
    memory = expected_memory(so_far.experiment, precision, planned.num_ranks)
    preview(settings, planned, machine, peak, flops, memory, Console())
    return True


def _on_this_machine(so_far: Evidence) -> Evidence:
    """What `auto` stands for here, and the engine that is here."""
    experiment = so_far.experiment
    machine = hardware.detect(experiment.hardware)
    framework, engine = engines.choose(experiment.framework, answers)
    return replace(
        so_far,
        experiment=replace(experiment, framework=framework),
        engine=engine,
        machine=machine,
        precision=hardware.resolve_precision(experiment.precision, machine),
    )


def _planned(so_far: Evidence, console: Console) -> Evidence:
    """All that is known before the start. Raises where nothing can be started."""
    experiment, machine, precision = so_far.experiment, so_far.machine, so_far.precision
    assert machine is not None and precision is not None
    validate(experiment)
    known = defaults(experiment.mode.name)
    support.check(experiment, support.values_of(experiment, machine.device, precision, so_far.engine), known)
    support.check_devices(experiment.parallelism, machine)

    console.print("preparing the workload, counting its FLOPs", style="dim")
    make = workload.prepare
    with _wrong_combination(experiment):
        prepared = make(
            experiment.model,
            experiment.data,
            sequence_length=experiment.sequence_length,
            num_samples=plan.num_samples(experiment),
            seed=experiment.seed,
            weights_on_disk=experiment.framework.random_weights == "disk",
            dtype="float32" if precision == "fp32" else "bfloat16",
            folder=cache_folder(),
        )
        flops = _step_flops(experiment)
    support.check_memory(flops.parameters, precision, machine)
    threads = plan.threads_per_rank(machine.cores, experiment.parallelism.num_devices)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    place = plan.Place(
        so_far.folder, LAUNCHERS, ROOT, sys.executable, machine.device, precision, threads, so_far.engine, visible
    )
    planned = plan.make(experiment, prepared, place)
    (so_far.folder / "plan.json").write_text(json.dumps(describe(planned), indent=1))
    return replace(so_far, plan=planned, workload=prepared, flops=flops)


def _held_against(so_far: Evidence, console: Console) -> Evidence:
    """The peak; a CPU's is measured now."""
    experiment, machine, precision = so_far.experiment, so_far.machine, so_far.precision
    assert machine is not None and precision is not None
    num_ranks = experiment.parallelism.num_devices
    if machine.device == "cpu":
        console.print("measuring the CPU's peak", style="dim")
    dtype = hardware.peak_dtype(precision, machine.device)
    threads = plan.threads_per_rank(machine.cores, num_ranks)
    return replace(so_far, peak=hardware.peak(experiment.hardware, machine, dtype, num_ranks, threads, run_together))


def _measured(so_far: Evidence, console: Console) -> Evidence:
    """The planned run, launched, read and judged."""
    planned, flops, peak, wanted = so_far.plan, so_far.flops, so_far.peak, so_far.experiment.measurement
    assert planned is not None and flops is not None and peak is not None
    with watching(planned, flops.model_flops / peak.flops_per_second, console) as enough:
        outcome = launch(planned, enough)
    shutil.rmtree(planned.scratch, ignore_errors=True)

    seen = records.read(planned.records)
    recorded = verdict.periods_recorded(seen, planned.num_ranks)
    least = wanted.warmup_steps + wanted.minimum_steps
    periods = verdict.periods_wanted(outcome, recorded, planned.periods, least)
    differences = records.differences(seen, _asked(so_far, periods))
    flops = metrics.as_executed(flops, seen)
    measurement = None
    if recorded >= periods:
        measurement = metrics.measure(seen, flops, peak, wanted.warmup_steps, periods - wanted.warmup_steps)
        differences += metrics.impossible(measurement, flops, peak)
    return replace(
        so_far,
        flops=flops,
        outcome=outcome,
        records=seen,
        differences=differences,
        measurement=measurement,
        verdict=verdict.judge(outcome, bool(seen.ranks), recorded, periods, differences),
    )


def _asked(evidence: Evidence, periods: int) -> records.Asked:
    """What the records must show."""
    experiment, planned, flops, machine = evidence.experiment, evidence.plan, evidence.flops, evidence.machine
    assert planned is not None and flops is not None and machine is not None
    on_cpu = machine.device == "cpu"
    recomputes = experiment.gradient_checkpointing.name != "none" and not experiment.torch_compile
    return records.Asked(
        num_ranks=planned.num_ranks,
        micro_batch_shape=(experiment.batch_size, experiment.sequence_length),
        micro_batches_per_step=experiment.gradient_accumulation_steps,
        periods=periods,
        trainable_parameters=flops.trainable_parameters,
        parameters=flops.parameters,
        device=machine.device,
        threads=plan.threads_per_rank(machine.cores, planned.num_ranks) if on_cpu else None,
        linear_dtype="float32" if evidence.precision == "fp32" else "bfloat16",
        tf32=True if evidence.precision == "fp32" and not on_cpu else None,
        recomputed_blocks=experiment.model.architecture.get("num_hidden_layers") if recomputes else None,
        recomputation=experiment.gradient_checkpointing.name,
        wrapper=experiment.parallelism.wrapper,
        attention=experiment.attention,
        liger_kernels=_liger_kernels(experiment),
        sequence_varies=experiment.data.padding == "longest",
        torch_compile=experiment.torch_compile,
        optimizer_dtype="bfloat16" if evidence.precision == "bf16_pure" else "float32",
    )


def _step_flops(experiment: Experiment) -> FlopCount:
    """The FLOPs of one optimizer step on one device."""
    return cached_count(
        experiment.model.architecture,
        experiment.mode,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        batch_size=experiment.batch_size,
        sequence_length=experiment.sequence_length,
        folder=cache_folder() / "flops",
    ).scaled(experiment.gradient_accumulation_steps)


def _liger_kernels(experiment: Experiment) -> frozenset[str]:
    """The kernels that must run, by their switches."""
    return frozenset(switch for switch, on in asdict(experiment.liger).items() if on and experiment.liger_kernel)


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
