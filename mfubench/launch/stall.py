"""Whether a run stands still. In: every rank's step times so far, at each look. Out: what to say when it does. Pure.

Before the first step there is no telling a hang from a slow start, and only the timeout ends it. After it, the slowest step
so far is the measure: a step that compiles or autotunes in the middle of a run takes about as long as the first one did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIMES_THE_SLOWEST = 20.0
AT_LEAST_S = 120.0


@dataclass
class Stall:
    """Looks at a run; `allowed_s` seconds without a new step are no stall yet. None: 20 times the slowest, at least 120."""

    allowed_s: float | None
    _steps: int = 0
    _since_s: float = 0.0

    def look(self, ranks: Mapping[str, Sequence[float]], now_s: float) -> str | None:
        """Where it stands, if no rank has ended a step for too long. `ranks`: the step times in s of each."""
        steps = sum(map(len, ranks.values()))
        if steps != self._steps:
            self._steps, self._since_s = steps, now_s
        if not steps:
            return None
        slowest = max(max(times, default=0.0) for times in ranks.values())
        allowed = max(AT_LEAST_S, TIMES_THE_SLOWEST * slowest) if self.allowed_s is None else self.allowed_s
        still = now_s - self._since_s
        if still <= allowed:
            return None
        stood = ", ".join(f"{rank} after {len(times)}" for rank, times in ranks.items())
        return f"no step ended for {still:.0f} s: {stood}"
