"""What a reader must know beside the figures, though the run is valid. A closed set."""

from __future__ import annotations

from collections.abc import Iterator

from mfubench import support
from mfubench.evidence import Evidence
from mfubench.metrics import MEASURED_PEAK_TOLERANCE
from mfubench.recounts import APART, InSitu

UNSTABLE = 0.1  # half of the mean's interval over the mean: above, two settings can hardly be compared
SMALL_FOR_A_GPU = 100_000_000  # parameters: below, a step is kernel launches and host time


def caveats(evidence: Evidence, defaults: support.Values) -> Iterator[str]:
    """Sentences for the result's `warnings`; `defaults` as support.check has them."""
    experiment, machine, outcome = evidence.experiment, evidence.machine, evidence.outcome
    for setting, value, where in support.inapplicable(experiment, defaults):
        yield f"{setting}={value} changes nothing with {where}"
    if machine and machine.device == "cuda" and evidence.flops and evidence.flops.parameters < SMALL_FOR_A_GPU:
        yield (
            f"{experiment.model.name} is far too small for a {machine.device_name}: its MFU means nothing there; try "
            "python -m mfubench model=llama-3.1-8b mode=lora sequence_length=2048 gradient_checkpointing=non_reentrant"
        )
    seen = [rank.work for rank in evidence.records.ranks if rank.work]
    if experiment.gradient_checkpointing.name != "none" and any(work["recomputation"] is None for work in seen):
        yield "the compiled model hides what it recomputes: hfu takes it to be what was asked; mfu does not depend on it"
    measurement, peak = evidence.measurement, evidence.peak
    if measurement and experiment.measurement.profile_flops:
        yield from _in_situ(evidence.in_situ)
    if measurement and peak and peak.measured and measurement.hfu_causal > MEASURED_PEAK_TOLERANCE:
        yield (
            f"the run did {measurement.hfu_causal:.2f} times the FLOP/s of the measured peak, so the peak was measured "
            "too low: utilisations are too high; run again on a quiet machine"
        )
    if measurement and outcome and outcome.ended == "itself" and outcome.returncode:
        yield f"the framework ended with exit status {outcome.returncode} after all measured steps; see framework.log"
    if measurement:
        low, high = measurement.ci95["step_time_s"]
        assert high is not None  # a mean has both ends; only a rate may lack one
        uncertain = (high - low) / 2 / measurement.step_time_s
        if uncertain > UNSTABLE:
            yield (
                f"unstable: the mean step time is only known to ±{uncertain:.0%}, so are all figures (steps took "
                f"{measurement.step_time_s_min:.3g} to {measurement.step_time_s_max:.3g} s); run again on a quiet machine, "
                "or longer: measurement=thorough"
            )
        if evidence.verdict and evidence.verdict.stopped_by == "user":
            yield f"ended by the user after {measurement.steps} of {experiment.measurement.steps} measured steps"


def _in_situ(counted: InSitu | None) -> Iterator[str]:
    """Where the step that was counted in the framework's own process did something else than mfubench takes it to do."""
    if counted is None:
        yield "no step was counted in the framework's own process: not every rank has trained one model from its first step on"
    elif counted.flops is None or counted.apart is None:
        yield "no step could be counted in the framework's own process: torch.compile hides what it does"
    elif abs(counted.apart) > APART:
        why = counted.explanation or "nothing known explains it; flops.in_situ in result.json has its operators"
        unknown = ", ".join(f"{operator} ×{calls:g}" for operator, calls in counted.uncounted.items())
        yield (
            f"a step counted in the framework's own process did {counted.flops / 1e12:.4g} TFLOP, {counted.apart:+.1%} from "
            f"the {counted.expected_flops / 1e12:.4g} TFLOP that hfu takes it to do: {why}"
            + (f"; no formula counts {unknown}" if unknown else "")
        )
