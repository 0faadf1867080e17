"""Cores that this process may use: those it may run on, and no more than the CPU quota of its container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of cores, at least 1; of a quota that is no whole number, the part of a core isn't used."""
    found = [len(os.sched_getaffinity(0))]
    with suppress(OSError):  # a kernel without cgroups
        found += map(int, quotas(Path("/proc/self/cgroup").read_text(), CGROUPS))
    return max(1, min(found))


def quotas(mine: str, mount: Path) -> Iterator[float]:
    """Yield each CPU quota, in cores, of a process's cgroups and of those above them, below the folder `mount`.

    `mine`, its /proc/self/cgroup: "id:controllers:path" a line, version 2 without controllers. In a container the path may
    be the host's and not be there: the topmost folder is then the container's.
    """
    for line in mine.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for level in (Path(path), *Path(path).parents):
            folder = mount / ("cpu" if controllers else "") / level.relative_to("/")
            with suppress(OSError, ValueError):  # no such level; "max" and -1 are no limits
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                quota, period = (int(word) for name in names for word in (folder / name).read_text().split())
                if quota > 0:
                    yield quota / period
