"""The machine and the denominator: hardware settings in; a Machine and a Peak in dense FLOP/s out."""

from __future__ import annotations

from mfubench.hardware.catalogue import known_peaks
from mfubench.hardware.machine import Machine, Unavailable, detect, resolve_precision
from mfubench.hardware.peaks import Peak, UnknownPeak, peak, peak_dtype

__all__ = [
    "Machine",
    "Peak",
    "Unavailable",
    "UnknownPeak",
    "detect",
    "known_peaks",
    "peak",
    "peak_dtype",
    "resolve_precision",
]
