"""Compare one rank's work, as its `work` event describes it, with the expected work. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mfubench.config.vocabulary import OPTIMIZERS
from mfubench.records.expected import Difference, Expected

if TYPE_CHECKING:
    from mfubench.records.reading import RankRecord

# A kernel's module in liger_kernel.transformers -> the switch that turns it on. Gated MLPs of any kind, experts
# included, are one switch; the forwards of whole models are there for their loss.
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


def compare_work(rank: RankRecord, expected: Expected) -> Iterator[Difference]:
    """Yield each difference from the expected work. Values unknown to the probe are None and not compared."""
    work = rank.work
    if not work:
        if rank.step_times_s:
            yield Difference(f"the work of rank {rank.rank}", "a description after its first step", "none")
        return
    for what, (wanted, actual) in _expected_and_recorded(expected, work).items():
        if wanted is not None and actual is not None and wanted != actual:
            yield Difference(f"{what} on rank {rank.rank}", f"{wanted}", f"{actual}")


def _expected_and_recorded(expected: Expected, work: Any) -> dict[str, tuple[Any, Any]]:
    trainable = expected.trainable_parameters
    blocks = None if work["recomputation"] is None else sum(work.get("recomputed", {}).values())
    liger = None if expected.liger_kernels is None else _names(expected.liger_kernels)
    return {
        "processes that train together": (expected.num_ranks, work["world_size"]),
        "classes around the model for parallel training": _wrapper(expected, work["parallel_wrappers"]),
        "ZeRO stage": (expected.zero_stage, work.get("zero_stage")),
        "trainable parameters": (trainable, work["trainable_parameters"]),
        "trainable parameters with a gradient": (trainable, work["trainable_parameters_with_gradient"]),
        "trainable parameters stepped by an optimizer": (trainable, _stepped(work)),
        "parameters": (expected.parameters, work.get("parameters")),
        "device": (expected.device, work.get("device")),
        "threads": (expected.threads, work.get("threads")),
        "dtype that the weights are multiplied in": (expected.linear_dtype, work.get("linear_dtype")),
        "4-bit type of frozen weights": (expected.quantization, _quantization(work)),
        "use of TF32": (expected.tf32, work.get("tf32")),
        "blocks recomputed": (expected.recomputed_blocks, blocks),
        "recomputation in the backward pass": (expected.recomputation, work["recomputation"]),
        "attention": (expected.attention, _attention_name(work)),
        "Liger kernels": (liger, _names(liger_switches(work["liger_kernels"]))),
        "use of torch.compile": (expected.torch_compile, work["compiled"]),
        "optimizer": _optimizer(expected, work["optimizers"]),
        "seed": (expected.seed, work.get("seed")),
        "dtype that the optimizer steps": (expected.optimizer_dtype, _optimizer_dtypes(work)),
    }


def _attention_name(work: Any) -> str | None:
    """The attention in the model's config, unless its calls say otherwise."""
    named: str | None = work["attention"]["implementation"]
    if named == "sdpa" and work["attention"].get("sdpa_calls") == 0:
        return "sdpa in the model's config, and no call of it"
    return named


def _quantization(work: Any) -> str | None:
    recorded = work.get("quantized")
    return None if recorded is None else " and ".join(sorted(recorded)) or "none"


def liger_switches(kernels: Iterable[str]) -> frozenset[str]:
    """The switches that turn on the recorded kernels; a kernel without a switch keeps its own name."""
    origins = ((name, name.removeprefix("liger_kernel.transformers.").partition(".")[0]) for name in kernels)
    return frozenset(LIGER_SWITCHES.get(origin, name) for name, origin in origins)


def _names(several: frozenset[str]) -> str:
    return ", ".join(sorted(several)) or "none"


def _wrapper(expected: Expected, recorded: list[str]) -> tuple[str, str]:
    if expected.wrapper in recorded:
        return (expected.wrapper, expected.wrapper)  # further base classes are no difference
    return (expected.wrapper or "none", ", ".join(recorded) or "none")


def _optimizer(expected: Expected, recorded: list[dict[str, Any]]) -> tuple[str | None, str]:
    """The expected and the recorded optimizer in words; a value missing from the table is not compared."""
    known = OPTIMIZERS.get(expected.optimizer or "")
    if known is None:
        return None, ""
    kinds = {(each["class"], None if known.fused is None else bool(each.get("fused"))) for each in recorded}

    def in_words(kind: tuple[str, bool | None]) -> str:
        return kind[0] + {True: " in a fused kernel", False: " without a fused kernel", None: ""}[kind[1]]

    return in_words((known.kind, known.fused)), " and ".join(sorted(map(in_words, kinds)))


def _stepped(work: Any) -> int | None:
    """Number of stepped elements; None if DeepSpeed steps tensors of its own instead of the model's."""
    if work["optimizers_step_copies"]:
        return None
    return sum(elements for optimizer in work["optimizers"] for elements in optimizer["steps"].values())


def _optimizer_dtypes(work: Any) -> str | None:
    """The dtypes of all stepped tensors and of the optimizers' states."""
    dtypes = {name for optimizer in work["optimizers"] for part in ("steps", "state") for name in optimizer[part]}
    return " and ".join(sorted(dtypes)) or None
