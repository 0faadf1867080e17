"""Find the steady part of a series of step times, and tell if the series has settled.

Warm-up (lazy initialisation, compilation, autotuning, a growing allocator) makes early steps slower, or faster, than later
ones, and a mean that includes them is biased.

- Warm-up ends at the first step whose 5-step running median lies within the band of the second half's running medians.
  Medians, so that an occasional slow step, which belongs to the measurement, doesn't count as warm-up.
- The rest drifts if the slope of a straight line through it is significant, with autocorrelated noise taken into account,
  and large enough to matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mfubench.measure.intervals import effective_size, student
from mfubench.measure.metric_table import percent

NEIGHBOURS = 5
BAND_SIGMAS = 3.0  # robust standard deviations of a median of NEIGHBOURS
MAD_TO_STD = 1.4826  # of a normal distribution
MEDIAN_SPREAD = 0.5357  # the standard deviation of the median of five normal values, in theirs (Teichroew 1956)
MIN_BAND = 0.002  # of the median: below this a difference is no warm-up worth a step
DRIFT_CONFIDENCE = 0.99  # confidence of the slope's interval
MIN_DRIFT = 0.005  # of the mean, over the whole window
MIN_STEPS = 10  # to tell anything from


@dataclass(frozen=True)
class Steadiness:
    """The steady part of a series of step times."""

    start: int  # index of the first steady step
    settled: bool | None  # True: the rest doesn't drift; None: too few to tell
    drift: float | None  # of the steady steps, from first to last, as a fraction of their mean; None: too few to tell
    drift_at_most: float | None  # the far end of its interval, without a sign
    because: str  # in words


def steadiness(times: Sequence[float], warmup: int = 0) -> Steadiness:
    """Find the steady part of `times` (any unit), after at least `warmup` of them; the module describes the method."""
    import numpy as np

    rest = np.asarray(times[warmup:], dtype=float)
    if len(rest) < MIN_STEPS:
        return Steadiness(warmup, None, None, None, f"{len(rest)} steps are too few to tell warm-up from noise")
    start = warmup + _first_like_the_second_half(rest)
    steady = rest[start - warmup :]
    if start - warmup >= len(rest) // 2:
        never = f"warm-up didn't end: up to step {start + 1} no step is within the range of the second half"
        return Steadiness(start, False, None, None, never)
    drift, uncertain = _drift(steady)
    settled = abs(drift) <= max(uncertain, MIN_DRIFT)
    ended = f"warm-up ended before step {start + 1} (the first within the range of the second half)"
    moves = "" if settled else f", and from there the step time drifts by {percent(drift, sign='+')}"
    return Steadiness(start, settled, drift, abs(drift) + uncertain, ended + moves)


def _first_like_the_second_half(times: Any) -> int:
    """Return the first index whose running median lies in the band of the second half's running medians."""
    import numpy as np

    later = times[len(times) // 2 :]
    centre = np.median(later)
    spread = MAD_TO_STD * np.median(np.abs(later - centre))
    # The centre is itself uncertain: a median of n has about 1.2533 / sqrt(n) of the values' standard deviation.
    uncertain = (MEDIAN_SPREAD**2 + 1.2533**2 / len(later)) ** 0.5
    band = max(BAND_SIGMAS * uncertain * spread, MIN_BAND * centre)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(times, NEIGHBOURS), axis=1)
    inside = np.abs(medians - centre) <= band
    first = int(np.argmax(inside)) if inside.any() else len(times) // 2
    # A median of five hides two slow steps at its front.
    outside = np.abs(times[first : first + NEIGHBOURS] - centre) > 2 * BAND_SIGMAS * max(spread, MIN_BAND * centre)
    leading = int(np.argmin(outside)) if not outside.all() else 0
    return min(first + leading, len(times) // 2)


def _drift(times: Any) -> tuple[float, float]:
    """Return the slope of the times from first to last as a fraction of their mean, and half the width of its interval.

    Least squares; the slope's standard error counts autocorrelated residuals as `effective_size` says.
    """
    import numpy as np

    n = len(times)
    x = np.arange(n) - (n - 1) / 2
    slope = float(x @ times / (x @ x))
    residuals = times - times.mean() - slope * x
    worth = effective_size(residuals.tolist())
    error = float((residuals @ residuals / (n - 2) / (x @ x)) ** 0.5) * (n / worth) ** 0.5
    half = student(worth - 1, DRIFT_CONFIDENCE) * error
    whole = (n - 1) / float(times.mean())
    return slope * whole, half * whole
