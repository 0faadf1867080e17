"""A container's CPU quota counts as its cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mfubench.hardware import cores


@pytest.mark.parametrize(
    ("mine", "files", "quotas"),
    [
        ("0::/", {"cpu.max": "50000 100000"}, [0.5]),
        ("0::/", {"cpu.max": "max 100000"}, []),
        ("0::/", {}, []),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"}, [3]),
        ("0::/not/here", {"cpu.max": "200000 100000"}, [2]),  # the host's path, in a container
        ("0::/../c", {"cpu.max": "200000 100000"}, [2]),
        ("2:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, [1.5]),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("3:cpuset:/\n1:cpuacct:/", {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "1"}, []),
        ("1:name=systemd:/a:b\n0::/a:b", {"a:b/cpu.max": "100000 100000"}, [1]),
    ],
)
def test_quotas_are_those_of_all_levels_in_both_versions(
    tmp_path: Path, mine: str, files: dict[str, str], quotas: list[float]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert list(cores.quotas(mine, tmp_path)) == quotas


@pytest.mark.parametrize(("found", "usable"), [([], 8), ([0.5], 1), ([2.9, 16.0], 2), ([16.0], 8)])
def test_no_more_cores_are_used_than_a_quota_pays_for_and_one_at_least(
    monkeypatch: pytest.MonkeyPatch, found: list[float], usable: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "quotas", lambda *_: iter(found))
    assert cores.usable_cores() == usable
