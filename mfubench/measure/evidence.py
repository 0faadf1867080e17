"""What is known of a run, stage by stage. In: nothing but what a stage found. Out: the Evidence that the next one adds to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mfubench.config import Experiment
from mfubench.flops import FlopCount
from mfubench.flops.crosscheck import SecondCount
from mfubench.hardware import Ceiling, Conditions, Machine, Peak
from mfubench.launch.outcome import Outcome
from mfubench.measure.in_situ import InSitu
from mfubench.measure.metrics import Measurement
from mfubench.measure.status import Verdict
from mfubench.plan.native import Plan
from mfubench.records import Difference, Records
from mfubench.workload import Workload

NOTHING_RECORDED = Records(())


@dataclass(frozen=True)
class Evidence:
    """What is known of a run so far; a later stage adds its part."""

    experiment: Experiment
    folder: Path
    group: str | None
    started_at: datetime
    machine: Machine | None = None
    precision: str | None = None
    engine: str | None = None  # which of the framework's runs
    workload: Workload | None = None
    plan: Plan | None = None
    flops: FlopCount | None = None  # of one optimizer step on one device
    second_count: SecondCount | None = None  # of the same as asked; None: there is none
    in_situ: InSitu | None = None  # of one warm-up step; None: it wasn't asked for, or wasn't recorded
    peak: Peak | None = None
    ceiling: Ceiling | None = None  # None: it wasn't to be measured
    outcome: Outcome | None = None
    records: Records = NOTHING_RECORDED
    differences: tuple[Difference, ...] = ()
    measurement: Measurement | None = None
    conditions: Conditions = ()
    history: Sequence[Mapping[str, float]] = ()
    verdict: Verdict | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the run is on a CUDA device."""
        return self.machine is not None and self.machine.device == "cuda"


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)
