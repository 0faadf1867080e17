"""The run itself. In: Evidence with a plan, FLOPs and a peak. Out: Evidence with what was recorded, measured and judged."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from mfubench import hardware, records
from mfubench.config import Experiment, GradientCheckpointing
from mfubench.config.schema import Measurement
from mfubench.config.validate import ATTENTIONS
from mfubench.flops import crosscheck, profile_of
from mfubench.launch.outcome import Ending
from mfubench.launch.start import launch
from mfubench.measure import metrics, status
from mfubench.measure.evidence import Evidence
from mfubench.measure.in_situ import in_situ as in_situ_count
from mfubench.measure.progress import watching
from mfubench.measure.stopping_rule import Rule
from mfubench.plan import support
from mfubench.plan.native import threads_per_rank

# Of what is asked, that which `comparison=defaults` leaves to the framework.
LEFT_OPEN = (
    "recomputation",
    "recomputed_blocks",
    "attention",
    "liger_kernels",
    "torch_compile",
    "optimizer",
    "optimizer_dtype",
)


def measured(so_far: Evidence, console: Console) -> Evidence:
    """The planned run, launched, watched, read and judged."""
    planned, flops, peak, machine = so_far.plan, so_far.flops, so_far.peak, so_far.machine
    assert planned is not None and flops is not None and peak is not None and machine is not None
    rule = rule_of(so_far.experiment.measurement)
    watch = hardware.watch(machine, planned.num_ranks)
    stall_s = so_far.experiment.measurement.stall_s
    with watching(planned, rule, stall_s, flops.model_flops / peak.flops_per_second, console) as progress:

        def look() -> Ending | None:
            watch.look()
            return progress()

        outcome = launch(planned, look)
    shutil.rmtree(planned.scratch, ignore_errors=True)

    seen = records.read(planned.records)
    outcome = replace(outcome, peak_memory_bytes={rank.rank: rank.peak_memory_bytes for rank in seen.ranks})
    recorded = status.periods_recorded(seen, planned.num_ranks)
    wanted = status.wanted(outcome, seen, planned.num_ranks, rule)
    differences = records.differences(seen, asked(so_far, wanted.periods)) + crosscheck.contradictions(
        flops, so_far.second_count
    )
    measurement, history, in_situ, window = None, [], None, None
    if recorded >= wanted.periods:
        done = as_done(so_far.experiment, seen)
        in_situ = in_situ_count(seen, done)
        counted = metrics.as_executed(profile_of(done).of, seen)
        measurement = metrics.measure(seen, counted, peak, rule.warmup, wanted.periods - rule.warmup)
        flops = metrics.mean_flops(seen, counted, measurement)
        history = metrics.history(seen, counted, peak, measurement)
        differences += metrics.impossible(measurement, flops, peak)
        window = metrics.steady_window_s(seen, measurement)
    conditions = watch.conditions(window)
    if measurement is not None:
        measurement = replace(
            measurement,
            stopped_because=wanted.because,
            device_seconds=outcome.wall_s * planned.num_ranks,
            joules_per_token=metrics.joules_per_token(measurement, conditions, planned.num_ranks),
            of_ceiling=metrics.of_ceiling(measurement, peak, so_far.ceiling),
        )
    return replace(
        so_far,
        flops=flops,
        in_situ=in_situ,
        history=history,
        outcome=outcome,
        records=seen,
        differences=differences,
        measurement=measurement,
        conditions=conditions,
        verdict=status.judge(outcome, bool(seen.ranks), recorded, wanted.periods, differences),
    )


def rule_of(asked_for: Measurement) -> Rule:
    """When the run ends, as the settings have it."""
    return Rule(
        warmup=asked_for.warmup_steps,
        least=min(asked_for.minimum_steps, asked_for.steps),
        most=asked_for.steps,
        precision=asked_for.relative_precision,
        seconds=asked_for.seconds,
    )


def asked(evidence: Evidence, periods: int) -> records.Asked:
    """What the records must show."""
    experiment, planned, flops, machine = evidence.experiment, evidence.plan, evidence.flops, evidence.machine
    assert planned is not None and flops is not None and machine is not None
    on_cpu = machine.device == "cpu"
    values = support.values_of(experiment, machine.device, evidence.precision or "", evidence.engine)
    # A setting that doesn't reach the framework promises nothing, and a user's own words to the framework win over it.
    reach = set() if experiment.framework.native else support.mapped_settings(experiment.framework, values)
    recomputes = experiment.gradient_checkpointing.name != "none" and not experiment.torch_compile
    wanted = records.Asked(
        num_ranks=planned.num_ranks,
        micro_batch_shape=(experiment.batch_size, experiment.sequence_length),
        micro_batches_per_step=experiment.gradient_accumulation_steps,
        periods=periods,
        trainable_parameters=flops.trainable_parameters,
        parameters=flops.parameters,
        device=machine.device,
        threads=threads_per_rank(machine.cores, planned.num_ranks) if on_cpu else None,
        quantization=experiment.mode.four_bit or "none",
        linear_dtype="float32" if evidence.precision == "fp32" else "bfloat16",
        tf32=True if evidence.precision == "fp32" and not on_cpu else None,
        recomputed_blocks=experiment.model.architecture.get("num_hidden_layers") if recomputes else None,
        recomputation=experiment.gradient_checkpointing.name,
        wrapper=experiment.parallelism.wrapper,
        zero_stage=(experiment.parallelism.deepspeed or {}).get("zero_optimization", {}).get("stage"),
        attention=experiment.attention,
        liger_kernels=liger_kernels(experiment),
        sequence_varies=experiment.data.padding == "longest",
        torch_compile=experiment.torch_compile,
        optimizer=experiment.optimizer if "optimizer" in reach else None,
        seed=experiment.seed if "seed" in reach else None,
        optimizer_dtype="bfloat16" if evidence.precision == "bf16_pure" else "float32",
    )
    nothing: dict[str, Any] = dict.fromkeys(LEFT_OPEN)
    return wanted if experiment.comparison == "equal" else replace(wanted, **nothing)


def as_done(experiment: Experiment, seen: records.Records) -> Experiment:
    """The experiment with what the framework chose of that on which FLOPs depend, where that was left to it."""
    if experiment.comparison == "equal" or not seen.ranks or not seen.ranks[0].work:
        return experiment
    work = seen.ranks[0].work
    kernel = work["attention"]["implementation"]
    return replace(
        experiment,
        gradient_checkpointing=GradientCheckpointing(work["recomputation"] or "none"),
        attention=kernel if kernel in ATTENTIONS else experiment.attention,
    )


def liger_kernels(experiment: Experiment) -> frozenset[str]:
    """The kernels that must run, by their switches."""
    return frozenset(switch for switch, on in asdict(experiment.liger).items() if on and experiment.liger_kernel)
