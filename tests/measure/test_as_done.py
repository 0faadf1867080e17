"""What a run is held against, and what its FLOPs are counted for where the framework decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mfubench.config import Experiment
from mfubench.measure.measure import as_done
from mfubench.records.reading import RankRecord, Records


def seen(**work: Any) -> Records:
    told = {"recomputation": "reentrant", "attention": {"implementation": "eager"}} | work
    return Records(ranks=(RankRecord(0, 1, (), (), None, (), None, None, told, {}, ()),))


def test_flops_are_counted_for_what_the_framework_chose(compose: Callable[..., Experiment]) -> None:
    done = as_done(compose("comparison=defaults"), seen())
    assert (done.gradient_checkpointing.name, done.attention) == ("reentrant", "eager")


def test_a_kernel_that_no_count_knows_is_taken_for_the_default(compose: Callable[..., Experiment]) -> None:
    done = as_done(compose("comparison=defaults"), seen(attention={"implementation": "xformers"}, recomputation=None))
    assert (done.gradient_checkpointing.name, done.attention) == ("none", "sdpa")


def test_what_was_asked_is_counted_where_it_was_asked(compose: Callable[..., Experiment]) -> None:
    asked = compose("gradient_checkpointing=non_reentrant")
    assert as_done(asked, seen()) == asked
