"""The lists of settings, of their values and of packages, each written once and read by every room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from mfubench.config.schema import Experiment

# Config groups, in the order of the schema: group → its dataclass.
GROUPS: Mapping[str, Any] = {name: kind for name, kind in get_type_hints(Experiment).items() if is_dataclass(kind)}
WITHOUT_OPTIONS = tuple(name for name, kind in GROUPS.items() if "name" not in {field.name for field in fields(kind)})
GROUPS_WITH_OPTIONS = tuple(name for name in GROUPS if name not in WITHOUT_OPTIONS)  # files of conf/, to choose from
# Groups that every framework must obey. The others are mfubench's own, or reach a framework as files (model).
FRAMEWORK_GROUPS = ("mode", "parallelism", "gradient_checkpointing", "data")

# Settings that don't change the measured work.
UNMEASURED = ("tracking", "resume", "dry_run")
# Settings of the machine, not of the work: the same work may be done on any machine.
OUTSIDE_THE_WORK = (*UNMEASURED, "hardware", "cluster")
# Keys of a framework for the user to choose; the others are mfubench's way to run it.
CHOSEN_OF_FRAMEWORK = ("name", "native", "engine", "random_weights")


@dataclass(frozen=True)
class LeftOpen:
    """A setting that `comparison=defaults` leaves to the framework, under its other names."""

    expected: tuple[str, ...]  # fields of records.expected, not compared then
    reported: str  # its name in the tables


LEFT_OPEN: Mapping[str, LeftOpen] = {
    "gradient_checkpointing": LeftOpen(("recomputation", "recomputed_blocks"), "checkpointing"),
    "attention": LeftOpen(("attention",), "attention"),
    "liger_kernel": LeftOpen(("liger_kernels",), "liger"),
    "torch_compile": LeftOpen(("torch_compile",), "compile"),
    "optimizer": LeftOpen(("optimizer", "optimizer_dtype"), "optimizer"),
}

# Values of settings.
RESOLVED_PRECISIONS = ("bf16", "bf16_pure", "fp32")
PRECISIONS = ("auto", *RESOLVED_PRECISIONS)
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
MODES = ("full", "lora", "qlora")
RECOMPUTATIONS = ("none", "reentrant", "non_reentrant")  # of gradient_checkpointing
QUANTIZATIONS = ("nf4", "fp4")
WEIGHTS = ("random", "hub")
RANDOM_WEIGHTS = ("disk", "device")
LOSSES = ("mean", "token_sum", "mean_of_unshifted")
PADDINGS = ("max_length", "longest")
DEVICES = ("auto", "cpu", "cuda")
TRACKING_MODES = ("auto", "online", "offline", "disabled")
COMPARISONS = ("equal", "defaults")
NOTHING_ASKED = "none"  # the comparison of a command that is only watched: what it does is compared with nothing
UNKNOWN = "unknown"  # a setting of such a command that couldn't be seen


@dataclass(frozen=True)
class Optimizer:
    """An optimizer as the probe must see it."""

    kind: str  # class name
    fused: bool | None  # True: steps in one fused kernel; None: it has no such kernel


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw_torch_fused": Optimizer("AdamW", fused=True),
    "adamw_torch": Optimizer("AdamW", fused=False),
    "sgd": Optimizer("SGD", fused=None),
    "adafactor": Optimizer("Adafactor", fused=None),
}


@dataclass(frozen=True)
class Sharding:
    """Data parallelism, as it determines the memory of a device."""

    library: str | None  # ddp | deepspeed | fsdp; None: one device
    shards: frozenset[str] = frozenset()  # of optimizer, gradients, weights: a device holds 1 / num_devices of each


PARALLELISMS: Mapping[str, Sharding] = {
    "single": Sharding(None),
    "ddp": Sharding("ddp"),
    "zero0": Sharding("deepspeed"),
    "zero1": Sharding("deepspeed", frozenset({"optimizer"})),
    "zero2": Sharding("deepspeed", frozenset({"optimizer", "gradients"})),
    "zero3": Sharding("deepspeed", frozenset({"optimizer", "gradients", "weights"})),
    "fsdp2": Sharding("fsdp", frozenset({"optimizer", "gradients", "weights"})),
}

# Packages whose version matters, with the reasons. flops: it determines the FLOP count; figures: it computes other figures;
# step: it may change the time of a step; run: it belongs to the identity of a run; shown: the doctor lists it.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch": ("flops", "figures", "step", "run", "shown"),
    "transformers": ("flops", "figures", "step", "run", "shown"),
    "accelerate": ("step", "run", "shown"),
    "peft": ("flops", "figures", "step", "run", "shown"),
    "deepspeed": ("step", "run", "shown"),
    "liger-kernel": ("step", "run", "shown"),
    "bitsandbytes": ("step", "run"),
    "datasets": ("run",),
    "triton": ("step",),
    "flash-attn": ("step",),
    "hydra-core": ("figures",),
    "omegaconf": ("figures",),
    "scipy": ("figures",),
}


def packages(reason: str) -> tuple[str, ...]:
    """Packages that matter for `reason`."""
    return tuple(package for package, reasons in PACKAGES.items() if reason in reasons)
