"""Scaling efficiency: what settings that differ in their number of devices alone keep of one device's throughput. Pure.

The work per device is the same (weak scaling), so that the ideal is the tokens/s per device of the fewest devices. An
efficiency is the ratio of the two, with the interval of the ratio of their step times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mfubench.measure.metric_table import WORDS, percent, seconds
from mfubench.report.cells import ABSENT, with_interval
from mfubench.report.labels import labels
from mfubench.report.pooling import Figure, Pooled
from mfubench.report.ratios import step_time_ratio
from mfubench.report.section import Section
from mfubench.report.step_time import explained


@dataclass(frozen=True)
class Point:
    """A setting on so many devices."""

    devices: int
    nodes: int
    pooled: Pooled
    efficiency: Figure | None  # a fraction; None unless it is ok; without an interval: the reference

    @property
    def size(self) -> tuple[int, int]:
        """Devices and nodes: its place among the others."""
        return self.devices, self.nodes

    @property
    def cells(self) -> tuple[str, ...]:
        """Its row in the table, see `scaling_section`."""
        tokens, found = self.pooled.figure("tokens_per_second_per_device"), explained(self.pooled)
        if tokens is None or self.efficiency is None:
            return str(self.devices), str(self.nodes), self.pooled.status, ABSENT, ABSENT
        waits = found.time.categories.get("communication", 0.0) if found else 0.0
        exposed = f"{seconds(waits)} ({percent(waits / found.time.seconds)})" if found else ABSENT
        tokens_per_s = WORDS["tokens/s"](tokens.mean)
        return str(self.devices), str(self.nodes), tokens_per_s, with_interval(self.efficiency, "fraction"), exposed


@dataclass(frozen=True)
class Scaling:
    """A setting on several numbers of devices."""

    name: str
    points: tuple[Point, ...]  # the fewest devices first


def scalings(settings: Sequence[Pooled]) -> list[Scaling]:
    """Return the settings that ran on several numbers of devices and are otherwise the same, of which at least two are ok.

    Where one ran several times, as in several sweeps, the newest counts.
    """
    alike: dict[tuple[str, ...], dict[tuple[int, int], Pooled]] = {}
    for each in sorted(settings, key=lambda each: each.results[-1].started_at):
        parallelism = each.results[0].settings["parallelism"]
        others = (cell for key, cell in each.settings.items() if key != "parallelism")
        size = int(parallelism["num_devices"]), int(parallelism.get("num_nodes", 1))
        alike.setdefault((parallelism["name"], *others), {})[size] = each
    several = [sizes for sizes in alike.values() if sum(bool(each.ok) for each in sizes.values()) > 1]
    names = labels([sizes[min(sizes)] for sizes in several]) if several else []
    return [Scaling(name, _points(sizes)) for name, sizes in zip(names, several, strict=True)]


def scaling_section(found: Sequence[Scaling]) -> Section:
    """Return the table of at least one scaling, a row for each number of devices and nodes."""
    single = any(len(point.pooled.ok) == 1 for each in found for point in each.points)
    about = (
        "Efficiency: tokens/s per device over those of the fewest devices, with its 95 % interval"
        f"{', of single runs over their steps alone' * single}. Communication not hidden: time of a step in which a device "
        "communicates and computes nothing, by the profile."
    )
    several = len(found) > 1
    headers = ("devices", "nodes", "tokens/s/device", "efficiency", "communication not hidden")
    rows = [(each.name, *point.cells) if several else point.cells for each in found for point in each.points]
    title = "Scaling" if several else f"Scaling of {found[0].name}"
    return Section(title, (about,), ("setting", *headers) if several else headers, rows)


def _points(sizes: dict[tuple[int, int], Pooled]) -> tuple[Point, ...]:
    reference = sizes[min(size for size, each in sizes.items() if each.ok)]
    return tuple(Point(*size, sizes[size], _efficiency(reference, sizes[size])) for size in sorted(sizes))


def _efficiency(one: Pooled, other: Pooled) -> Figure | None:
    """Return the tokens/s per device of `other` over those of `one`, the reference."""
    before, after = (each.figure("positions_per_step") for each in (one, other))
    if before is None or after is None:
        return None
    if one is other:
        return Figure(1.0, None, None, len(one.ok))
    ratio = step_time_ratio(one, other)
    work = after.mean / before.mean  # packed sequences may leave other numbers of positions
    low, high = (work / end if end else None for end in (ratio.high, ratio.low))
    return Figure(work / ratio.ratio, low, high, len(other.ok))
