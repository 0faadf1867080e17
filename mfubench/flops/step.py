"""The FLOP counts of an Experiment's optimizer step: its Profile, its FlopCount and its AnalyticCount.

Every micro-batch has the experiment's shape; `documents` and `trained_tokens` are as in `Profile`, the same for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mfubench.config import Experiment, Mode
from mfubench.config.vocabulary import packages
from mfubench.files.paths import PACKAGE, cache_folder
from mfubench.files.whole import write_whole
from mfubench.flops.analytic import analytic_count
from mfubench.flops.attention import AttentionCall
from mfubench.flops.count import profile
from mfubench.flops.counts import AnalyticCount, FlopCount
from mfubench.flops.profile import Profile


def profile_of(experiment: Experiment) -> Profile:
    """The experiment's Profile, kept in the cache. Raises ValueError if it can't be counted."""
    return cached_profile(
        experiment.model.architecture,
        experiment.mode,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        folder=cache_folder() / "flops",
    )


def step_flops(
    experiment: Experiment, *, documents: Sequence[int] | None = None, trained_tokens: int | None = None
) -> FlopCount:
    """The FLOPs of one optimizer step on one device. Raises ValueError if it can't be counted, and for the shape."""
    of_any = profile_of(experiment)
    shape = (experiment.batch_size, experiment.sequence_length)
    of_any.check(*shape, documents=documents, trained_tokens=trained_tokens)
    micro_batch = of_any.of(*shape, documents=documents, trained_tokens=trained_tokens)
    return micro_batch.scaled(experiment.gradient_accumulation_steps)


def second_count(
    experiment: Experiment, *, documents: Sequence[int] | None = None, trained_tokens: int | None = None
) -> AnalyticCount | None:
    """Count the same step by formulas, to check `step_flops`; None if `analytic_model.not_written_down` has a reason. Pure."""
    micro_batch = analytic_count(
        experiment.model.architecture,
        experiment.mode,
        recomputation=experiment.gradient_checkpointing.name,
        attention=experiment.attention,
        batch_size=experiment.batch_size,
        sequence_length=experiment.sequence_length,
        documents=documents,
        trained_tokens=trained_tokens,
    )
    return None if micro_batch is None else micro_batch.scaled(experiment.gradient_accumulation_steps)


def cached_profile(
    architecture: Mapping[str, Any], mode: Mode, *, recomputation: str, attention: str, folder: Path
) -> Profile:
    """`profile` of the same arguments, read from `folder` if it is there, else counted and, if that can be, written there.

    Raises ValueError as `profile` does; nothing is written then.
    """
    key = {
        "architecture": dict(architecture),
        "mode": asdict(mode),
        "recomputation": recomputation,
        "attention": attention,
        "versions": {library: version(library) for library in packages("flops")},
        "source": _source_hash(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = folder / f"{digest[:32]}.json"
    if file.is_file():
        return _profile_of(json.loads(file.read_text(encoding="utf-8"))["profile"])
    counted = profile(architecture, mode, recomputation=recomputation, attention=attention)
    with suppress(OSError):  # a user without a home of their own, or a full disk
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"key": key, "profile": asdict(counted)}, indent=1))
    return counted


def _profile_of(stored: Mapping[str, Any]) -> Profile:
    calls = {
        name: tuple((AttentionCall(**call), times) for call, times in stored[name])
        for name in ("needed_attention", "executed_attention")
    }
    return Profile(**{**stored, **calls})


def _source_hash() -> str:
    digest = hashlib.sha256()
    elsewhere = [PACKAGE / "workload" / "architecture.py", PACKAGE / "probe" / "formulas.py"]
    for file in [*elsewhere, *sorted(Path(__file__).parent.glob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
