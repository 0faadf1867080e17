"""The part of a result that explains its step time, found by a profile of a few steps after the measured ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from mfubench.explain.categories import CATEGORIES, Kind
from mfubench.explain.exclusive import IDLE, by_category
from mfubench.explain.waterfall import StepTime, Waterfall

REST = "all others"  # of a category: those too small to be listed


@dataclass(frozen=True)
class KernelTime:
    """A kernel, or an operator of a CPU, in the mean step."""

    name: str
    category: str
    calls: float  # of a step
    seconds: float  # exclusive, brought to the measured step


@dataclass(frozen=True)
class Gap:
    """A stretch of a profiled step in which nothing ran on the device."""

    seconds: float
    host: str  # the operator or range that the host was in; "": none


@dataclass(frozen=True)
class Explanation:
    """Explanation of the measured rank's mean step: its time by category and kernel, and the waterfall."""

    steps: int  # that were profiled
    profiled_step_s: float
    categories_s: Mapping[str, float]  # idle among them; brought to the measured step, they add up to its time
    profiled_idle_s: float
    hidden_communication_s: float  # of a profiled step, beside computation; in no category
    kernels: tuple[KernelTime, ...]  # those that take most
    gaps: tuple[Gap, ...]  # the widest
    waterfall: Waterfall | None
    no_waterfall: str | None  # why there is none
    notes: tuple[str, ...]  # what the profile couldn't see
    cost_s: float  # from the first step asked for on its account to the end of its reduction

    @property
    def figures(self) -> dict[str, float]:
        """Scalars by name: ms of a step by category, of the profile, and the waterfall's terms in fractions of the peak."""
        found = {f"time.{name}_ms": self.categories_s.get(name, 0.0) * 1e3 for name in CATEGORIES}
        found |= {
            "profile.steps": self.steps,
            "profile.cost_s": self.cost_s,
            "profile.step_ms": self.profiled_step_s * 1e3,
            "profile.idle_ms": self.profiled_idle_s * 1e3,
            "profile.hidden_communication_ms": self.hidden_communication_s * 1e3,
        }
        terms = {**self.waterfall.executed, **self.waterfall.needed} if self.waterfall else {}
        return found | {f"waterfall.{name.replace(' ', '_')}": term for name, term in terms.items()}

    @property
    def time(self) -> StepTime:
        """The times by kernel; what isn't listed is one kernel of its category."""
        kinds: dict[Kind, float] = defaultdict(float)
        for kernel in self.kernels:
            kinds[Kind(kernel.category, kernel.name)] += kernel.seconds
        listed = by_category(kinds)
        for category, seconds in self.categories_s.items():
            kind = IDLE if category == IDLE.category else Kind(category, REST)
            kinds[kind] += seconds - listed.get(category, 0.0)
        step = sum(self.categories_s.values())
        return StepTime(dict(kinds), self.profiled_idle_s, self.profiled_step_s / step, self.hidden_communication_s)
