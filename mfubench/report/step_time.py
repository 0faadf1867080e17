"""Explain the step time of a setting: where it goes, the mean of its repeats. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mfubench.explain.categories import CATEGORIES, Kind
from mfubench.explain.explanation import REST
from mfubench.explain.reading import reading
from mfubench.explain.waterfall import StepTime, Waterfall
from mfubench.measure.metric_table import seconds
from mfubench.report.pooling import Pooled
from mfubench.report.settings import one_line

LEAST = 0.005  # of the step, for a category to be named


@dataclass(frozen=True)
class Explained:
    """Time of a setting's mean step by category and kernel, and its waterfall."""

    time: StepTime
    waterfall: Waterfall | None
    about: Sequence[str]  # sentences: what stands out in the waterfall, or why there is none

    @property
    def shares(self) -> dict[str, float]:
        """Fractions of the step by category, in the order of CATEGORIES; small ones together."""
        times = self.time.categories
        known = [*CATEGORIES, *(name for name in times if name not in CATEGORIES)]
        every = {one_line(name): times[name] / self.time.seconds for name in known if name in times}
        shown = {name: share for name, share in every.items() if share >= LEAST}
        rest = sum(every.values()) - sum(shown.values())
        return shown | {REST: rest} if rest >= LEAST else shown

    @property
    def text(self) -> str:
        """Write it on one line."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return f"{seconds(self.time.seconds)}: {shares}{self.stretch}"

    @property
    def stretch(self) -> str:
        """Say how much longer the profiled steps took, behind the shares."""
        return f"; profiled steps took {self.time.stretch:.2f}× as long"


def explained(pooled: Pooled) -> Explained | None:
    """Explain a setting by those of its ok runs that have an explanation; None if none has."""
    found = [run.explanation for run in pooled.ok if run.explanation]
    if not found:
        return None
    falls = [each.waterfall for each in found if each.waterfall]
    waterfall = _mean_waterfall(falls) if falls else None
    about = reading(waterfall, _mean_time([each.time for each in found if each.waterfall])) if waterfall else []
    without = "Not every run has a waterfall" if falls else "There is no waterfall"
    about += [f"{without}: {reason}." for reason in dict.fromkeys(each.no_waterfall for each in found) if reason]
    return Explained(_mean_time([each.time for each in found]), waterfall, about)


def _mean_time(times: Sequence[StepTime]) -> StepTime:
    kinds: dict[Kind, float] = defaultdict(float)
    for time in times:
        for kind, spent in time.kinds.items():
            kinds[kind] += spent / len(times)
    return StepTime(
        kinds=kinds,
        profiled_idle=fmean(time.profiled_idle for time in times),
        stretch=fmean(time.stretch for time in times),
        hidden_communication=fmean(time.hidden_communication for time in times),
    )


def _mean_waterfall(found: Sequence[Waterfall]) -> Waterfall:
    rates = [each.matmul_rate for each in found if each.matmul_rate is not None]
    return Waterfall(
        executed=_mean_terms([each.executed for each in found]),
        needed=_mean_terms([each.needed for each in found]),
        matmul_rate=fmean(rates) if rates else None,
    )


def _mean_terms(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for terms in tables for name in terms)
    return {name: fmean(terms.get(name, 0.0) for terms in tables) for name in names}
