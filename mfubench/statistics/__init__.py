"""Step times in; what they sum up to, which of them are steady, when they are enough, and how two of them compare. Pure."""

from __future__ import annotations

from mfubench.statistics.comparing import Ratio, paired
from mfubench.statistics.intervals import Summary, effective_size, half_width, ratio_interval, summarize
from mfubench.statistics.steadiness import Steadiness, steadiness
from mfubench.statistics.stopping import Because, Rule, enough_after, looks, sure_after

__all__ = [
    "Because",
    "Ratio",
    "Rule",
    "Steadiness",
    "Summary",
    "effective_size",
    "enough_after",
    "half_width",
    "looks",
    "paired",
    "ratio_interval",
    "steadiness",
    "summarize",
    "sure_after",
]
