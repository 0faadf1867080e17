"""Warn of what a reader must know beside valid figures: a closed set of kinds, each with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mfubench.config.defaults import defaults
from mfubench.hardware.conditions import troubles
from mfubench.measure.figures import Figures, InSitu, RunWarning
from mfubench.measure.in_situ import MAX_RELATIVE_DIFFERENCE
from mfubench.measure.intervals import MIN_STEPS
from mfubench.measure.metric_table import WORDS, percent
from mfubench.measure.metrics import MEASURED_PEAK_TOLERANCE
from mfubench.plan import support
from mfubench.workload.config_json import text_part_note

if TYPE_CHECKING:
    from mfubench.config import Experiment, Measurement
    from mfubench.hardware.peaks import Peak, Peaks
    from mfubench.measure.measure import Measured
    from mfubench.measure.observe import Observed
    from mfubench.measure.status import RunStatus
    from mfubench.plan.prepare import Prepared, Target

EXPLAIN_A_FAILURE = ("foreign_process", "memory_errors")  # without steady steps the machine's others say nothing
UNSTABLE = 0.1  # half of the mean's interval over the mean: above, two settings can hardly be compared
SMALL_FOR_A_GPU = 100_000_000  # parameters: below, a step is kernel launches and host time


def run_warnings(
    experiment: Experiment,
    status: RunStatus,
    target: Target | None,
    prepared: Prepared | None,
    peaks: Peaks | None,
    observed: Observed | None,
    measured: Measured | None,
) -> Iterator[RunWarning]:
    """Yield the warnings of a run. The arguments are its stages, None for those that weren't reached."""
    for setting, value, where in support.inapplicable(experiment, defaults(experiment.mode.name)):
        yield RunWarning("inapplicable", f"{setting}={value} changes nothing with {where}")
    if (note := text_part_note(experiment.model)) is not None:
        yield RunWarning("text_part", note)
    small = prepared is not None and (measured or prepared).flops.parameters < SMALL_FOR_A_GPU
    if target and target.machine.device == "cuda" and small:
        yield RunWarning(
            "too_small",
            f"{experiment.model.name} is far too small for a {target.machine.device_name}: its MFU means nothing there; "
            "try python -m mfubench model=llama-3.1-8b mode=lora sequence_length=2048 gradient_checkpointing=non_reentrant",
        )
    yield from (RunWarning("unknown", why) for why in (prepared.unknown if prepared else ()))
    if not (peaks and observed and measured):
        return
    hidden = any(rank.work["recomputation"] is None for rank in observed.records.ranks if rank.work)
    if experiment.gradient_checkpointing.name != "none" and hidden:
        yield RunWarning(
            "recomputation_hidden",
            "the compiled model hides what it recomputes: hfu takes it to be what was asked; mfu does not depend on it",
        )
    first, *others = target.nodes.names if target and target.nodes.names else ("",)
    if others:
        yield RunWarning(
            "unwatched",
            f"{', '.join(others)} {'was' if len(others) == 1 else 'were'} not watched: clocks, power, heat and the host's memory "
            f"are those of {first}, and so is the peak if it was measured",
        )
    for kind, text in troubles(measured.conditions):
        if measured.measurement or kind in EXPLAIN_A_FAILURE:
            yield RunWarning(kind, text)
    if measured.measurement:
        yield from _of_steps(experiment, status, peaks.peak, measured.measurement)
        if observed.outcome.ended == "itself" and observed.outcome.returncode and status.status != "failed":
            how = f"the framework ended with exit status {observed.outcome.returncode}"
            yield RunWarning("ended_badly", f"{how} after all measured steps; see its output")
        if experiment.measurement.profile_flops:
            yield from (RunWarning("in_situ", text) for text in _of_the_in_situ_count(measured.in_situ))


def _of_steps(
    experiment: Experiment, status: RunStatus, peak: Peak | None, measurement: Figures
) -> Iterator[RunWarning]:
    """Warn of a mean step time that is less certain than was asked for."""
    wanted = experiment.measurement
    if measurement.settled is False:
        yield RunWarning(
            "not_steady",
            f"not steady: {measurement.steady_because}{_went_on(wanted, measurement)}; the mean is of steps "
            f"{measurement.warmup_steps + 1} to {measurement.warmup_steps + measurement.steps}",
        )
    known, precision = measurement.relative_half_width, wanted.relative_precision
    took = f"steps took {measurement.step_time_s_min:.3g} to {measurement.step_time_s_max:.3g} s"
    after = f"after {measurement.steps} steady steps in {measurement.steps * measurement.step_time_s:.3g} s; {took}"
    more = "a quiet machine, longer (measurement=thorough) or several runs (repeat=range(5)) would tell more"
    if known is None:
        yield RunWarning("imprecise", f"{measurement.steps} steps: no interval, which takes {MIN_STEPS}; {more}")
    elif precision is not None and known > precision:
        told = f"the mean step time is known to ±{percent(known, 2)}, not to the ±{percent(precision, 2)} asked for"
        yield RunWarning("imprecise", f"{told}, {after}; {more}")
    elif precision is None and known > UNSTABLE:
        told = f"the mean step time is only known to ±{percent(known, 0)}, so are all figures"
        yield RunWarning("imprecise", f"{told}, {after}; {more}")
    if status.stopped_by == "user":
        yield RunWarning(
            "ended_by_user", f"ended by the user after {measurement.steps} steady steps of at most {wanted.steps}"
        )
    if measurement.of_ceiling is not None and measurement.of_ceiling > MEASURED_PEAK_TOLERANCE:
        too_high = "utilisations are too high" if peak and peak.measured else "of_ceiling is too high"
        yield RunWarning(
            "ceiling_exceeded",
            f"the run did {measurement.of_ceiling:.2f} times the FLOP/s that were measured as the most this device does, so "
            f"that was measured too low: {too_high}; run again on a quiet machine (a GPU's ceiling is kept in the cache folder's "
            "ceilings/: delete it there)",
        )


def _went_on(wanted: Measurement, measurement: Figures) -> str:
    """Say that a run which isn't steady went on to its longest; nothing if that was its length from the start."""
    longest = {"steps": f"{wanted.steps} steps", "time": f"{wanted.seconds:g} s" if wanted.seconds else ""}
    most = longest.get(measurement.stopped_because or "")
    return f", so the run went on to the maximum of {most}" if most and wanted.relative_precision is not None else ""


def _of_the_in_situ_count(counted: InSitu | None) -> Iterator[str]:
    """Yield how the step counted in the framework's process differed from the FLOPs that HFU assumes."""
    if counted is None:
        yield "no step was counted in the framework's own process: not every rank has trained one model from its first step on"
    elif counted.flops is None:
        yield "no step could be counted in the framework's own process: torch.compile hides what it does"
    elif counted.apart is not None and counted.expected_flops and abs(counted.apart) > MAX_RELATIVE_DIFFERENCE:
        why = counted.explanation or "nothing known explains it; in_situ in result.json has its operators"
        unknown = ", ".join(f"{operator} ×{calls:g}" for operator, calls in counted.uncounted.items())
        yield (
            f"a step counted in the framework's own process did {WORDS['TFLOP'](counted.flops / 1e12)}, "
            f"{percent(counted.apart, sign='+')} from the {WORDS['TFLOP'](counted.expected_flops / 1e12)} that hfu takes it "
            f"to do: {why}" + (f"; no formula counts {unknown}" if unknown else "")
        )
