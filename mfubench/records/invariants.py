"""Records against what was asked: everything that must hold for a figure to mean what it says. Pure.

Each Difference reads as "<what>: asked <asked>, seen <seen>".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mfubench.records.reading import RankRecord, Records

# The time of day is read just after the monotonic clock, and may be slewed by some 0.05 %. A machine that slept, or a
# clock that was set, shows as much more.
CLOCKS_APART = 0.005
CLOCKS_APART_S = 0.02
# The host queues work ahead of a device, by up to about two steps; over a window both must agree but for that.
DEVICE_APART = 0.01
STEPS_AHEAD = 2
# Where in liger_kernel.transformers a kernel comes from -> the switch that brings it in. Gated MLPs of any kind,
# experts too, are one switch; the forwards of whole models are there for the loss they end in.
LIGER_SWITCHES = {
    "rope": "rope",
    "llama4_rope": "rope",
    "qwen2vl_mrope": "rope",
    "rms_norm": "rms_norm",
    "swiglu": "swiglu",
    "geglu": "swiglu",
    "functional": "cross_entropy",
    "cross_entropy": "cross_entropy",
    "model": "fused_linear_cross_entropy",
}
# The setting's value -> the class that steps, and whether in one fused kernel (None: it has no such kernel).
OPTIMIZERS = {
    "adamw_torch_fused": ("AdamW", True),
    "adamw_torch": ("AdamW", False),
    "sgd": ("SGD", None),
    "adafactor": ("Adafactor", None),
}


@dataclass(frozen=True)
class Asked:
    """What a run had to do. None: not known, so not compared."""

    num_ranks: int
    micro_batch_shape: tuple[int, int]  # [batch, sequence]; the longest sequence where it varies
    micro_batches_per_step: int
    periods: int  # step periods needed on every rank
    trainable_parameters: int
    recomputation: str  # none | reentrant | non_reentrant
    wrapper: str | None  # the class that must be around the model for parallel training; None: there must be none
    attention: str | None = None  # as the model's config names it
    liger_kernels: frozenset[str] | None = None  # Liger's switches that must be in effect, and no others
    torch_compile: bool | None = None
    device: str | None = None  # cpu | cuda
    threads: int | None = None  # of a rank on a CPU: what its peak was measured with
    parameters: int | None = None  # frozen ones too
    linear_dtype: str | None = None  # that most weights are multiplied in: float32 | bfloat16
    tf32: bool | None = None  # whether CUDA's fp32 products may use it
    recomputed_blocks: int | None = None  # the model's layers
    optimizer_dtype: str | None = None  # of what the optimizer steps and of its state: float32 | bfloat16
    optimizer: str | None = None  # by the setting's value
    seed: int | None = None  # of the framework's random numbers
    zero_stage: int | None = None  # of DeepSpeed
    sequence_varies: bool = False  # sequences may be shorter than the shape's


@dataclass(frozen=True)
class Difference:
    """Something that was not as asked."""

    what: str
    asked: str
    seen: str


def differences(records: Records, asked: Asked) -> tuple[Difference, ...]:
    """All differences, in the order of how much they explain; over the first `asked.periods` periods of each rank."""
    found = [_probe_error(error, "before any training") for error in records.errors]
    found += _ranks(records, asked)
    found += _same_samples(records, asked)
    for rank in records.ranks:
        found += [_probe_error(error, f"on rank {rank.rank}") for error in rank.errors]
        found += _work(rank, asked)
        found += _steps(rank, asked)
        found += _clocks(rank, asked)
    return tuple(found)


def _probe_error(error: str, where: str) -> Difference:
    return Difference(f"the observation {where}", "no mistake of the probe", error)


def _ranks(records: Records, asked: Asked) -> Iterator[Difference]:
    """Every rank once, none besides."""
    seen = Counter(rank.rank for rank in records.ranks)
    if seen != Counter(range(asked.num_ranks)):
        listed = ", ".join(f"{rank}" if n == 1 else f"{rank} ({n} processes)" for rank, n in sorted(seen.items()))
        wanted = ", ".join(map(str, range(asked.num_ranks)))
        yield Difference("ranks that trained", wanted, listed or "none")


def _same_samples(records: Records, asked: Asked) -> Iterator[Difference]:
    """Ranks that read the same samples in every step. Batches that are all alike, as of a single row, tell nothing."""
    readers: dict[tuple[int | None, ...], list[int]] = {}
    for rank in records.ranks:
        read = tuple(batch.checksum for step in rank.micro_batches[: asked.periods] for batch in step)
        if None not in read and len(set(read)) > 1:
            readers.setdefault(read, []).append(rank.rank)
    for ranks in readers.values():
        if len(ranks) > 1:
            yield Difference(f"samples of ranks {', '.join(map(str, ranks))}", "each its own", "the same in every step")


def _steps(rank: RankRecord, asked: Asked) -> Iterator[Difference]:
    """Enough periods, and in each the micro-batches that were asked for."""
    if len(rank.step_times_s) < asked.periods:
        yield Difference(f"step periods on rank {rank.rank}", f"{asked.periods}", f"{len(rank.step_times_s)}")
    steps = rank.micro_batches[: asked.periods]
    counts = Counter(len(step) for step in steps)
    if set(counts) - {asked.micro_batches_per_step}:
        what = f"micro-batches per optimizer step on rank {rank.rank}"
        yield Difference(what, f"{asked.micro_batches_per_step}", _listed(counts))
    shapes = Counter((batch.batch_size, batch.sequence_length) for step in steps for batch in step)
    if not all(_fits(shape, asked) for shape in shapes):
        what = f"[batch, sequence] of micro-batches on rank {rank.rank}"
        wanted = f"{list(asked.micro_batch_shape)}{' at most' if asked.sequence_varies else ''}"
        yield Difference(what, wanted, _listed({str(list(k)): n for k, n in shapes.items()}))

    efforts = Counter(rank.efforts[: asked.periods])
    if len(efforts) > 1:
        what = f"(tensors with a gradient, calls recomputed) in a step on rank {rank.rank}"
        yield Difference(what, "the same in every step", _listed({str(k): n for k, n in efforts.items()}))


def _fits(shape: tuple[int, int], asked: Asked) -> bool:
    batch, longest = asked.micro_batch_shape
    return shape[0] == batch and (shape[1] <= longest if asked.sequence_varies else shape[1] == longest)


def _listed(counts: Counter[int] | dict[str, int]) -> str:
    return ", ".join(f"{value} ({n} times)" for value, n in counts.items())


def _clocks(rank: RankRecord, asked: Asked) -> Iterator[Difference]:
    """The clocks agree on how long the periods took together."""
    n = min(asked.periods, len(rank.step_times_s))
    if n == 0:
        return
    host = rank.boundaries_s[n] - rank.boundaries_s[0]
    wall = rank.wall_boundaries_s[n] - rank.wall_boundaries_s[0]
    if abs(wall - host) > CLOCKS_APART_S + CLOCKS_APART * host:
        what = f"time of day that {n} steps took on rank {rank.rank} (was the machine suspended, or its clock set?)"
        yield Difference(what, f"{host:.3f} s, as on the monotonic clock", f"{wall:.3f} s")
    if rank.device_step_times_s is not None:
        device = sum(rank.device_step_times_s[:n])
        if abs(device - host) > DEVICE_APART * host + STEPS_AHEAD * max(rank.device_step_times_s[:n]):
            what = f"device time that {n} steps took on rank {rank.rank}"
            yield Difference(what, f"{host:.3f} s, as on the host's clock", f"{device:.3f} s")


def _work(rank: RankRecord, asked: Asked) -> Iterator[Difference]:
    """The same work as asked. What the probe could not tell is None and is not compared."""
    work = rank.work
    if not work:
        if rank.step_times_s:
            yield Difference(f"the work of rank {rank.rank}", "a description after its first step", "none")
        return
    wanted: dict[str, tuple[Any, Any]] = {
        "processes that train together": (asked.num_ranks, work["world_size"]),
        "classes around the model for parallel training": _wrapper(asked, work["parallel_wrappers"]),
        "ZeRO stage": (asked.zero_stage, work.get("zero_stage")),
        "trainable parameters": (asked.trainable_parameters, work["trainable_parameters"]),
        "trainable parameters with a gradient": (
            asked.trainable_parameters,
            work["trainable_parameters_with_gradient"],
        ),
        "trainable parameters stepped by an optimizer": (asked.trainable_parameters, _stepped(work)),
        "parameters": (asked.parameters, work.get("parameters")),
        "device": (asked.device, work.get("device")),
        "threads": (asked.threads, work.get("threads")),
        "dtype that the weights are multiplied in": (asked.linear_dtype, work.get("linear_dtype")),
        "use of TF32": (asked.tf32, work.get("tf32")),
        "blocks recomputed": (
            asked.recomputed_blocks,
            None if work["recomputation"] is None else sum(work.get("recomputed", {}).values()),
        ),
        "recomputation in the backward pass": (asked.recomputation, work["recomputation"]),
        "attention": (asked.attention, _attention(work)),
        "Liger kernels": (
            None if asked.liger_kernels is None else _names(asked.liger_kernels),
            _names(liger_switches(work["liger_kernels"])),
        ),
        "use of torch.compile": (asked.torch_compile, work["compiled"]),
        "optimizer": _optimizer(asked, work["optimizers"]),
        "seed": (asked.seed, work.get("seed")),
        "dtype that the optimizer steps": (asked.optimizer_dtype, _optimizer_dtypes(work)),
    }
    for what, (want, saw) in wanted.items():
        if want is not None and saw is not None and want != saw:
            yield Difference(f"{what} on rank {rank.rank}", f"{want}", f"{saw}")


def _attention(work: Any) -> str | None:
    """As the model's config names it, unless its calls say otherwise."""
    named: str | None = work["attention"]["implementation"]
    if named == "sdpa" and work["attention"].get("sdpa_calls") == 0:
        return "sdpa in the model's config, and no call of it"
    return named


def liger_switches(kernels: Iterable[str]) -> frozenset[str]:
    """The switches that bring in the kernels the probe named; a kernel's own name where no switch does."""
    origins = ((name, name.removeprefix("liger_kernel.transformers.").partition(".")[0]) for name in kernels)
    return frozenset(LIGER_SWITCHES.get(origin, name) for name, origin in origins)


def _names(several: frozenset[str]) -> str:
    return ", ".join(sorted(several)) or "none"


def _wrapper(asked: Asked, seen: list[str]) -> tuple[str, str]:
    if asked.wrapper in seen:
        return (asked.wrapper, asked.wrapper)  # what else its class derives from is no difference
    return (asked.wrapper or "none", ", ".join(seen) or "none")


def _optimizer(asked: Asked, seen: list[dict[str, Any]]) -> tuple[str | None, str]:
    """In words; a value that is in no table is not compared."""
    name, fused = OPTIMIZERS.get(asked.optimizer or "", (None, None))
    if name is None:
        return None, ""
    kinds = {(each["class"], bool(each.get("fused")) if fused is not None else None) for each in seen}

    def in_words(kind: tuple[str, bool | None]) -> str:
        return kind[0] + {True: " in a fused kernel", False: " without a fused kernel", None: ""}[kind[1]]

    return in_words((name, fused)), " and ".join(sorted(map(in_words, kinds)))


def _stepped(work: Any) -> int | None:
    """Elements; None where an engine steps tensors of its own instead of the model's."""
    if work["optimizers_step_copies"]:
        return None
    return sum(elements for optimizer in work["optimizers"] for elements in optimizer["steps"].values())


def _optimizer_dtypes(work: Any) -> str | None:
    """Of everything that is stepped and of the optimizers' states."""
    dtypes = {name for optimizer in work["optimizers"] for part in ("steps", "state") for name in optimizer[part]}
    return " and ".join(sorted(dtypes)) or None
