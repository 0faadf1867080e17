"""Measure an observed run: figures, differences from what was expected, cross-checks, and the status that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mfubench.config import Experiment, GradientCheckpointing
from mfubench.config.vocabulary import ATTENTIONS, LEFT_OPEN, NOTHING_ASKED
from mfubench.flops import crosscheck
from mfubench.flops.counts import FlopCount
from mfubench.flops.step import profile_of
from mfubench.hardware.conditions import Conditions
from mfubench.hardware.peaks import Peaks
from mfubench.measure import metrics, status
from mfubench.measure.device_time import device_time
from mfubench.measure.figures import Figures, InSitu
from mfubench.measure.in_situ import in_situ
from mfubench.measure.observe import Observed, rule_of
from mfubench.plan import support
from mfubench.plan.prepare import Prepared
from mfubench.records import invariants
from mfubench.records.expected import Difference, Expected
from mfubench.records.loss import finite, first_loss, last_loss
from mfubench.records.reading import Records


@dataclass(frozen=True)
class Measured:
    """The figures of an observed run, and all that speaks against them."""

    measurement: Figures | None  # None: too few steps were recorded, or their work is unknown
    flops: FlopCount  # of the mean measured step on the mean device; without a measurement, of the step as planned
    in_situ: InSitu | None  # of one warm-up step; None: it wasn't to be counted, or wasn't recorded
    history: Sequence[Mapping[str, float]]  # a row per step period
    differences: tuple[Difference, ...]  # from what was expected; any of them makes the run inconsistent
    conditions: Conditions
    recorded: int  # step periods that every rank has
    wanted: status.Wanted


def measure(prepared: Prepared, peaks: Peaks, observed: Observed) -> Measured:
    """Work out the figures of the steady steps, if enough were recorded, and all that speaks against them."""
    outcome, recorded, monitor = observed.outcome, observed.records, observed.monitor
    experiment, ranks = prepared.target.experiment, prepared.plan.num_ranks
    rule, word = rule_of(experiment.measurement), experiment.framework.loss
    periods = status.periods_recorded(recorded, ranks)
    wanted = status.wanted(outcome, recorded, ranks, rule, to_the_end=prepared.plan.max_steps is None)
    differences = invariants.differences(recorded, expected_work(prepared, wanted.periods))
    differences += crosscheck.contradictions(prepared.flops, prepared.second_count)
    work_known = all(step for rank in recorded.ranks for step in rank.micro_batches[: wanted.periods])
    if periods < wanted.periods or not work_known:
        conditions = monitor.conditions(None)
        return Measured(None, prepared.flops, None, [], differences, conditions, periods, wanted)
    done, peak = as_done(experiment, recorded), peaks.peak
    counted = metrics.as_executed(prepared.counted or profile_of(done).of, recorded)
    found = metrics.measurement_of(recorded, counted, peak, rule.warmup, wanted.periods - rule.warmup)
    flops = metrics.mean_flops(recorded, counted, found)
    boundaries = metrics.boundaries_here(recorded, found, prepared.target.nodes.here)
    started_s = outcome.started_s
    assert started_s is not None, "what was recorded was started"
    conditions = monitor.conditions(metrics.steady_window_s(boundaries, found))
    return Measured(
        measurement=replace(
            found,
            stopped_because=wanted.because,
            **asdict(device_time(boundaries, found.warmup_steps, found.steps, started_s, outcome.wall_s, ranks)),
            joules_per_token=metrics.joules_per_token(found, conditions, prepared.target.devices_here),
            of_ceiling=metrics.of_ceiling(found, peak, peaks.ceiling),
            mfu_at_clock=metrics.mfu_at_clock(found, peak, conditions),
            usd_per_million_tokens=metrics.usd_per_million_tokens(found, experiment.hardware.price_per_hour),
            loss_first=finite(first_loss(word, recorded)),
            loss_last=finite(last_loss(word, recorded, wanted.periods)),
        ),
        flops=flops,
        in_situ=in_situ(recorded, None if prepared.counted and prepared.unknown else done),
        history=metrics.step_history(recorded, counted, peak, found),
        differences=differences + metrics.impossible(found, flops, peak),
        conditions=conditions,
        recorded=periods,
        wanted=wanted,
    )


def status_of(observed: Observed, measured: Measured) -> status.RunStatus:
    """Judge an observed run."""
    return status.judge(
        observed.outcome,
        bool(observed.records.ranks),
        measured.recorded,
        measured.wanted.periods,
        measured.differences,
        failed_early=measured.wanted.because == "end" and observed.outcome.returncode != 0,
    )


def expected_work(prepared: Prepared, periods: int) -> Expected:
    """Return what the records of the run must show."""
    target, flops = prepared.target, prepared.flops
    experiment, machine, precision = target.experiment, target.machine, target.precision
    if experiment.comparison == NOTHING_ASKED:
        wrapper = experiment.parallelism.wrapper
        return Expected(target.num_devices, None, None, periods, None, recomputation=None, wrapper=wrapper)
    on_cpu = machine.device == "cpu"
    values = support.values_of(experiment, machine.device, precision, target.engine)
    # A setting that doesn't reach the framework promises nothing, and a user's own words to the framework win over it.
    reach = set() if experiment.framework.native else support.mapped_settings(experiment.framework, values)
    liger_switches = [switch for switch, on in asdict(experiment.liger).items() if on]
    recomputes = experiment.gradient_checkpointing.name != "none" and not experiment.torch_compile
    wanted = Expected(
        num_ranks=target.num_devices,
        micro_batch_shape=(experiment.batch_size, experiment.sequence_length),
        micro_batches_per_step=experiment.gradient_accumulation_steps,
        periods=periods,
        trainable_parameters=flops.trainable_parameters,
        parameters=flops.parameters,
        device=machine.device,
        threads=target.threads_per_rank if on_cpu else None,
        quantization=experiment.mode.four_bit or "none",
        linear_dtype="float32" if precision == "fp32" else "bfloat16",
        tf32=True if precision == "fp32" and machine.has_tf32 else None,
        recomputed_blocks=experiment.model.architecture.get("num_hidden_layers") if recomputes else None,
        recomputation=experiment.gradient_checkpointing.name,
        wrapper=experiment.parallelism.wrapper,
        zero_stage=(experiment.parallelism.deepspeed or {}).get("zero_optimization", {}).get("stage"),
        attention=experiment.attention,
        liger_kernels=frozenset(liger_switches if experiment.liger_kernel else ()),
        sequence_varies=experiment.data.padding == "longest",
        torch_compile=experiment.torch_compile,
        optimizer=experiment.optimizer if "optimizer" in reach else None,
        seed=experiment.seed if "seed" in reach else None,
        optimizer_dtype="bfloat16" if precision == "bf16_pure" else "float32",
    )
    nothing: dict[str, Any] = dict.fromkeys(field for setting in LEFT_OPEN.values() for field in setting.expected)
    return wanted if experiment.comparison == "equal" else replace(wanted, **nothing)


def as_done(experiment: Experiment, recorded: Records) -> Experiment:
    """Return the experiment whose FLOPs are counted.

    With `comparison=defaults` it has the checkpointing and attention that the probe saw.
    """
    if experiment.comparison != "defaults" or not recorded.ranks or not recorded.ranks[0].work:
        return experiment
    work = recorded.ranks[0].work
    kernel = work["attention"]["implementation"]
    return replace(
        experiment,
        gradient_checkpointing=GradientCheckpointing(work["recomputation"] or "none"),
        attention=kernel if kernel in ATTENTIONS else experiment.attention,
    )
