"""Compare the records with the expected work: everything that must hold for a figure to mean what it says. Pure.

Each Difference reads as "<what>: asked <asked>, seen <seen>".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import isfinite

from mfubench.config.vocabulary import packages
from mfubench.records.expected import Difference, Expected
from mfubench.records.reading import RankRecord, Records
from mfubench.records.work_check import compare_work

# The time of day is read just after the monotonic clock, and may be slewed by some 0.05 %. A suspended machine or a
# changed clock shows as much more.
MAX_CLOCK_DIFFERENCE = 0.005
MAX_CLOCK_DIFFERENCE_S = 0.02
# Allowed drift of a device's clock from the host's, and allowed delay between a line's time and the query of the device
# in the same line.
MAX_DEVICE_CLOCK_DIFFERENCE = 0.01
MAX_DEVICE_CLOCK_DIFFERENCE_S = 0.02


def differences(records: Records, expected: Expected) -> tuple[Difference, ...]:
    """All differences, the most explanatory first; over the first `expected.periods` periods of each rank, and all losses."""
    found = [_probe_error(error, "before any training") for error in records.errors]
    found += _ranks(records, expected)
    found += _same_samples(records, expected)
    found += _same_versions(records)
    for rank in records.ranks:
        found += [_probe_error(error, f"on rank {rank.rank}") for error in rank.errors]
        found += compare_work(rank, expected)
        found += _steps(rank, expected)
        found += _losses(rank)
        found += _clock_differences(rank, expected)
    return tuple(found)


def _probe_error(error: str, where: str) -> Difference:
    return Difference(f"the probe {where}", "no error", error)


def _ranks(records: Records, expected: Expected) -> Iterator[Difference]:
    """Every rank must be there exactly once, and no other."""
    counts = Counter(rank.rank for rank in records.ranks)
    if counts != Counter(range(expected.num_ranks)):
        listed = ", ".join(f"{rank}" if n == 1 else f"{rank} ({n} processes)" for rank, n in sorted(counts.items()))
        wanted = ", ".join(map(str, range(expected.num_ranks)))
        yield Difference("ranks that trained", wanted, listed or "none")


def _same_samples(records: Records, expected: Expected) -> Iterator[Difference]:
    """Two ranks must not read the same samples in every step. Identical batches, as of a single row, prove nothing."""
    readers: dict[tuple[int | None, ...], list[int]] = {}
    for rank in records.ranks:
        read = tuple(batch.checksum for step in rank.micro_batches[: expected.periods] for batch in step)
        if None not in read and len(set(read)) > 1:
            readers.setdefault(read, []).append(rank.rank)
    for ranks in readers.values():
        if len(ranks) > 1:
            yield Difference(f"samples of ranks {', '.join(map(str, ranks))}", "each its own", "the same in every step")


def _same_versions(records: Records) -> Iterator[Difference]:
    """Every node must have the same versions of what may change the time of a step."""
    for package in packages("step"):
        versions = {rank.node: rank.versions.get(package, "none") for rank in records.ranks}
        if len(set(versions.values())) > 1:
            seen = ", ".join(f"{version} on {node}" for node, version in versions.items())
            yield Difference(f"version of {package}", "the same on every node", seen)


def _steps(rank: RankRecord, expected: Expected) -> Iterator[Difference]:
    """There must be enough periods, each with the expected micro-batches."""
    if len(rank.step_times_s) < expected.periods:
        yield Difference(f"step periods on rank {rank.rank}", f"{expected.periods}", f"{len(rank.step_times_s)}")
    steps = rank.micro_batches[: expected.periods]
    if rank.boundary == "optimizer" and not all(steps):
        what = f"micro-batches per optimizer step on rank {rank.rank}"
        seen = "neither forwards of the model nor batches of a torch DataLoader, so the work of a step is unknown"
        yield Difference(what, f"{expected.micro_batches_per_step or 'a known number'}", seen)
        return
    counts = Counter(len(step) for step in steps)
    if expected.micro_batches_per_step is not None and set(counts) - {expected.micro_batches_per_step}:
        what = f"micro-batches per optimizer step on rank {rank.rank}"
        yield Difference(what, f"{expected.micro_batches_per_step}", _listed(counts))
    shapes = Counter((batch.batch_size, batch.sequence_length) for step in steps for batch in step)
    longest = expected.micro_batch_shape
    if longest is not None and not all(_fits(shape, longest, expected.sequence_varies) for shape in shapes):
        what = f"[batch, sequence] of micro-batches on rank {rank.rank}"
        wanted = f"{list(longest)}{' at most' if expected.sequence_varies else ''}"
        yield Difference(what, wanted, _listed({str(list(k)): n for k, n in shapes.items()}))

    repeated = rank.gradient_and_recompute_counts[: expected.periods]
    # Steps of different numbers of micro-batches recompute differently often.
    repeats = Counter(repeated if len(counts) == 1 else ((gradients, 0) for gradients, _ in repeated))
    if len(repeats) > 1:
        what = f"(tensors with a gradient, calls recomputed) in a step on rank {rank.rank}"
        yield Difference(what, "the same in every step", _listed({str(k): n for k, n in repeats.items()}))


def _losses(rank: RankRecord) -> Iterator[Difference]:
    """Every loss must be finite; the first one that isn't is said. Steps are numbered from 1."""
    for number, losses in enumerate(rank.losses, start=1):
        wrong = [loss for loss in losses or () if loss is not None and not isfinite(loss)]
        if wrong:
            yield Difference(f"losses on rank {rank.rank}", "finite numbers", f"{wrong[0]} in step {number}")
            return


def _fits(shape: tuple[int, int], wanted: tuple[int, int], sequence_varies: bool) -> bool:
    batch, longest = wanted
    return shape[0] == batch and (shape[1] <= longest if sequence_varies else shape[1] == longest)


def _listed(counts: Counter[int] | dict[str, int]) -> str:
    return ", ".join(f"{value} ({n} times)" for value, n in counts.items())


def _clock_differences(rank: RankRecord, expected: Expected) -> Iterator[Difference]:
    """The clocks must agree on the total duration of the periods."""
    n = min(expected.periods, len(rank.step_times_s))
    if n == 0:
        return
    host = rank.boundaries_s[n] - rank.boundaries_s[0]
    wall = rank.wall_boundaries_s[n] - rank.wall_boundaries_s[0]
    if abs(wall - host) > MAX_CLOCK_DIFFERENCE_S + MAX_CLOCK_DIFFERENCE * host:
        what = f"duration of {n} steps by the time of day on rank {rank.rank} (was the machine suspended, or its clock set?)"
        yield Difference(what, f"{host:.3f} s, as on the monotonic clock", f"{wall:.3f} s")
    if rank.device_step_times_s is not None:
        yield from _device_clock(rank, rank.device_step_times_s[:n], host)


def _device_clock(rank: RankRecord, times: Sequence[float], host: float) -> Iterator[Difference]:
    """The device must pass every boundary after the host queued it, and before the host heard of it.

    This holds however far the host runs ahead, as with a whole step queued at once (CUDA graphs). Each boundary, less the
    device time since the first one, bounds the first one's time on the host's clock from both sides; the bounds must not
    exclude each other. Not yet run on CUDA.
    """
    since_first = [0.0, *accumulate(times)]
    earliest = max(queued - after for queued, after in zip(rank.boundaries_s, since_first, strict=False))
    latest = min(heard - after for heard, after in zip(rank.device_heard_s, since_first[1:], strict=False))
    if earliest > latest + MAX_DEVICE_CLOCK_DIFFERENCE_S + MAX_DEVICE_CLOCK_DIFFERENCE * host:
        what = f"duration of {len(times)} steps by the device's clock on rank {rank.rank}"
        yield Difference(what, f"{host:.3f} s, as on the host's clock", f"{since_first[-1]:.3f} s")
