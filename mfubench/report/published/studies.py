"""Read conf/published/, and count the published settings' FLOPs by the closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from mfubench.config import Mode
from mfubench.files.paths import CONF
from mfubench.flops.analytic import analytic_count
from mfubench.flops.counts import AMOUNTS, AnalyticCount


@dataclass(frozen=True)
class StudyRow:
    """The published figures and settings of one run."""

    name: str
    of: Mapping[str, Any]  # dotted setting -> its value: the runs that repeat it
    mfu: float  # as printed, by whatever meaning
    tflop: float  # of a step on one device, as its percentages count it
    tflop_without_recomputation: float
    step_time_s: float
    settings: Mapping[str, Any]  # beside those of the whole study


@dataclass(frozen=True)
class Study:
    """A published study: its source, its settings and its rows, two for each mode."""

    title: str
    source: str
    hardware: str
    peak_flops_per_second: float
    step_times: str  # a sentence: how they were read
    of: Mapping[str, Any]
    settings: Mapping[str, Any]  # dotted setting -> its value in the published runs
    rows: tuple[StudyRow, ...]
    remarks: Sequence[str]


def studies(folder: Path = CONF / "published") -> tuple[Study, ...]:
    """All published studies, in the order of their files' names."""
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))]
    return tuple(Study(**{**each, "rows": tuple(StudyRow(**row) for row in each["rows"])}) for each in contents)


def counted(study: Study, row: StudyRow, recomputation: str | None = None) -> AnalyticCount:
    """Count one step on one device with the row's published settings."""
    settings = {**study.settings, **study.of, **row.settings, **row.of}
    of_mode = yaml.safe_load((CONF / "mode" / f"{settings['mode.name']}.yaml").read_text())
    model = yaml.safe_load((CONF / "model" / f"{settings['model.name']}.yaml").read_text())
    own = {f.name: settings[f"mode.{f.name}"] for f in fields(Mode) if f"mode.{f.name}" in settings}
    micro_batch = analytic_count(
        model["architecture"],
        Mode(**of_mode | own),
        recomputation=recomputation or settings["gradient_checkpointing.name"],
        attention=settings["attention"],
        batch_size=settings["batch_size"],
        sequence_length=settings["sequence_length"],
    )
    assert micro_batch is not None, f"{study.title}: its model has no closed form"
    return micro_batch.scaled(settings["gradient_accumulation_steps"])


def meaning(study: Study, row: StudyRow) -> str:
    """Return the one of AMOUNTS that the published utilisation is nearest to."""
    count = counted(study, row)
    return min(AMOUNTS, key=lambda name: abs(share(study, row, getattr(count, name)) - row.mfu))


def share(study: Study, row: StudyRow, flops: float) -> float:
    """Return the share of the published peak that so many FLOPs per step and device are, at the published step time."""
    return flops / (row.step_time_s * study.peak_flops_per_second)
