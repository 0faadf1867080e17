"""The schema: one frozen dataclass per config group, shared by all options of the group, and the Experiment they make up.

A key that is not here is an error in a YAML and on the command line. Values, defaults among them, live in conf/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass(frozen=True)
class Framework:
    """A fine-tuning framework, as data: how it is started and what its native config says."""

    name: str = MISSING
    python: str | None = MISSING  # its interpreter, relative to the project's root; null: mfubench's own
    command: list[Any] = MISSING  # argv; a list inside it is spliced in
    environment: dict[str, str] = MISSING
    config_file: str = MISSING  # the native file's name in the run folder; its ending sets the format
    random_weights: str = MISSING  # "device": makes random weights itself; "disk": loads them from the model's folder
    base: dict[str, Any] = MISSING
    when: dict[str, Any] = MISSING
    unsupported: list[Any] = MISSING
    native: dict[str, Any] = MISSING


@dataclass(frozen=True)
class Model:
    """A model that carries its architecture, in the words of transformers' config.json."""

    name: str = MISSING
    hub_id: str | None = MISSING
    revision: str | None = MISSING
    weights: str = MISSING  # random | hub
    architecture: dict[str, Any] = MISSING


@dataclass(frozen=True)
class Mode:
    """What is trained: everything, or LoRA matrices of `rank` beside the linear layers named in `target_modules`."""

    name: str = MISSING
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: list[str] | None = None


@dataclass(frozen=True)
class Parallelism:
    """How many devices, started by what (argv after the interpreter), and the wrapper classes this is known by."""

    name: str = MISSING
    num_devices: int = MISSING
    launcher: list[str] = MISSING
    wrapper: str | None = MISSING  # the class the probe must see around the model; null: none


@dataclass(frozen=True)
class GradientCheckpointing:
    """Which activations are recomputed in the backward pass, and how: none | reentrant | non_reentrant."""

    name: str = MISSING


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    name: str = MISSING


@dataclass(frozen=True)
class Hardware:
    """A device and its dense peaks in FLOP/s by dtype."""

    name: str = MISSING
    device: str = MISSING  # auto | cpu | cuda
    device_name: str | None = None  # what the driver calls it, in words; commas between alternatives
    peaks: dict[str, float] = MISSING  # bf16, fp16, tf32, fp8 -> FLOP/s
    source: str | None = None
    peak_flops_per_second: float | None = None  # the user's own figure; wins over everything


@dataclass(frozen=True)
class Measurement:
    """How long is measured."""

    name: str = MISSING
    warmup_steps: int = MISSING
    steps: int = MISSING
    minimum_steps: int = MISSING  # a run that the user ends after this many measured steps still counts
    timeout_s: float = MISSING


@dataclass(frozen=True)
class Tracking:
    """Where results are logged besides the run folder."""

    name: str = MISSING
    mode: str = MISSING  # auto (online when logged in) | online | offline | disabled
    project: str | None = None
    entity: str | None = None


@dataclass(frozen=True)
class Experiment:
    """Everything that is asked of one run."""

    framework: Framework = MISSING
    model: Model = MISSING
    mode: Mode = MISSING
    parallelism: Parallelism = MISSING
    gradient_checkpointing: GradientCheckpointing = MISSING
    data: Data = MISSING
    hardware: Hardware = MISSING
    measurement: Measurement = MISSING
    tracking: Tracking = MISSING
    batch_size: int = MISSING
    sequence_length: int = MISSING
    gradient_accumulation_steps: int = MISSING
    precision: str = MISSING
    attention: str = MISSING
    liger_kernel: bool = MISSING
    torch_compile: bool = MISSING
    optimizer: str = MISSING
    seed: int = MISSING
