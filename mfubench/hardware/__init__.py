"""The machine and the denominators: hardware settings in; a Machine, a Peak and a Ceiling in dense FLOP/s out.

And the watch over the machine while a run goes on: Conditions out, and what in them is a trouble.
"""

from __future__ import annotations

from mfubench.hardware.catalogue import known_peaks
from mfubench.hardware.conditions import Conditions, CpuConditions, GpuConditions, Window, troubles
from mfubench.hardware.machine import Machine, Unavailable, detect, resolve_precision
from mfubench.hardware.peaks import Ceiling, Peak, Peaks, UnknownPeak, ceiling, peak, peak_dtype
from mfubench.hardware.watching import Monitor, watch

__all__ = [
    "Ceiling",
    "Conditions",
    "CpuConditions",
    "GpuConditions",
    "Machine",
    "Monitor",
    "Peak",
    "Peaks",
    "Unavailable",
    "UnknownPeak",
    "Window",
    "ceiling",
    "detect",
    "known_peaks",
    "peak",
    "peak_dtype",
    "resolve_precision",
    "troubles",
    "watch",
]
