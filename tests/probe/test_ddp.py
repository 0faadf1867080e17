"""Two real ranks that train together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest

from mfubench.records.expected import Expected
from mfubench.records.invariants import differences
from mfubench.records.reading import Records, read_records

SLOW_S = 0.4


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, run: Callable, trainers: Path) -> Records:
    folder = tmp_path_factory.mktemp("ddp")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    options = ("--ddp", "--seconds", 0.1, SLOW_S, "--steps", 7)
    done = run(*launcher, trainers / "sleeper.py", *options, records=folder)
    assert done.returncode == 0, done.stderr
    return read_records(folder)


def test_each_rank_has_one_record_and_the_launcher_none(records: Records) -> None:
    assert [rank.rank for rank in records.ranks] == [0, 1]
    assert len({rank.pid for rank in records.ranks}) == 2


def test_the_slow_rank_sets_the_step_time_of_both(records: Records) -> None:
    for rank in records.ranks:
        assert mean(rank.step_times_s[2:]) == pytest.approx(SLOW_S, rel=0.05)


def test_ddp_is_the_wrapper_and_the_ranks_know_each_other(records: Records) -> None:
    for rank in records.ranks:
        assert rank.work["wrappers"] == ["DistributedDataParallel", "Sleeper"]
        assert "DistributedDataParallel" in rank.work["parallel_wrappers"]
        assert rank.work["world_size"] == 2


def test_what_was_asked_was_done_but_for_samples_of_their_own(records: Records) -> None:
    """This trainer gives the same samples to both ranks, which no run that is measured may do."""
    asked = Expected(
        num_ranks=2,
        micro_batch_shape=(2, 16),
        micro_batches_per_step=1,
        periods=6,
        trainable_parameters=32 * 8 + 8 * 32 + 32,
        recomputation="none",
        wrapper="DistributedDataParallel",
    )
    (difference,) = differences(records, asked)
    assert (difference.what, difference.asked) == ("samples of ranks 0, 1", "each its own")
