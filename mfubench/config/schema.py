"""The schema: one frozen dataclass per config group, shared by all options of the group, and the Experiment they make up.

A key that is not here is an error in a YAML and on the command line. Values, defaults among them, live in conf/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # omegaconf.MISSING, whose import takes longer than a report


@dataclass(frozen=True)
class Framework:
    """A fine-tuning framework, as data: how it is started and what its native config says."""

    name: str = MISSING
    python: str | None = MISSING  # its interpreter, relative to the project's root; null: mfubench's own
    command: list[Any] | None = MISSING  # argv; a list inside it is spliced in. null: its engines have one each
    environment: dict[str, str] = MISSING
    config_file: str = MISSING  # the native file's name in the run folder; its ending sets the format
    files: dict[str, Any] = field(default_factory=dict)  # that the native file refers to: name -> content
    variables: dict[str, Any] = field(default_factory=dict)  # words of the framework's own for ${variables.NAME}
    random_weights: str = MISSING  # "device": makes random weights itself; "disk": loads them from the model's folder
    base: dict[str, Any] = MISSING
    when: dict[str, Any] = MISSING
    unsupported: list[Any] = MISSING
    native: dict[str, Any] = MISSING
    engines: list[Any] | None = None  # ways to start it (Engine), the preferred one first; null: `command` is the one
    engine: str | None = None  # the one that must run; null: the first that is here
    trainer: str | None = None  # the training loop it builds on, a heading of conf/rules.yaml; null: one of its own


@dataclass(frozen=True)
class Engine:
    """One way of starting a framework that can be started in several, from the same native config."""

    name: str
    probe: list[Any] | None  # argv that ends with 0 where this engine is installed; null: it always is
    command: list[Any]
    random_weights: str  # as the framework's


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
    """What is trained: everything (full), or LoRA matrices of `rank` beside the linear layers named in `target_modules`,
    over weights as they are (lora) or in 4 bits (qlora).

    A sweep over modes sets the same values for all of them, so that a mode may carry some it doesn't have.
    """

    name: str = MISSING
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: list[str] | None = None
    quantization: str | None = None  # nf4 | fp4
    double_quantization: bool | None = None  # the scales of blocks of weights are quantised too, to 8 bits

    @property
    def has_adapters(self) -> bool:
        """Whether LoRA matrices are trained, and the weights are frozen."""
        return self.name != "full"

    @property
    def four_bit(self) -> str | None:
        """The 4-bit type of the frozen linear layers' weights; None where they have 16 bits or 32."""
        return self.quantization if self.name == "qlora" else None


@dataclass(frozen=True)
class Parallelism:
    """How many devices, started by what (argv after the interpreter), and the wrapper classes this is known by."""

    name: str = MISSING
    num_devices: int = MISSING
    launcher: list[str] = MISSING
    wrapper: str | None = MISSING  # the class the probe must see around the model; null: none
    deepspeed: dict[str, Any] | None = (
        None  # DeepSpeed's configuration, with `when` as in a framework; null: not DeepSpeed
    )
    fsdp: dict[str, Any] | None = None  # accelerate's settings of FSDP; null: not FSDP


@dataclass(frozen=True)
class GradientCheckpointing:
    """Which activations are recomputed in the backward pass, and how: none | reentrant | non_reentrant."""

    name: str = MISSING


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    name: str = MISSING
    path: str | None = None  # a file of the user's: JSONL
    hub_id: str | None = None
    revision: str | None = None
    padding: str = (
        MISSING  # max_length: all micro-batches have one shape; longest: each is as long as its longest sample
    )


@dataclass(frozen=True)
class Hardware:
    """A device and its dense peaks in FLOP/s by dtype."""

    name: str = MISSING
    device: str = MISSING  # auto | cpu | cuda
    device_name: str | None = None  # what the driver calls it, in words; commas between alternatives
    peaks: dict[str, float] = MISSING  # bf16, fp16, tf32, fp8 -> FLOP/s
    source: str | None = None
    peak_flops_per_second: float | None = None  # the user's own figure; wins over everything
    measure_ceiling: bool = False  # find the largest matmul rate of this very device, too
    price_per_hour: float | None = None  # of one device, in US$; null: not known


@dataclass(frozen=True)
class Measurement:
    """How long is measured: until the mean step time is as sure as asked for, or the steps or the seconds are used up."""

    name: str = MISSING
    warmup_steps: int = MISSING  # never measured; more are left out where the series shows that it wasn't steady yet
    relative_precision: float | None = MISSING  # half the 95 % interval of the mean step time, over it; null: all steps
    minimum_steps: int = (
        MISSING  # measured at least, but no more than `steps`; a run that the user ends after these counts
    )
    steps: int = MISSING  # measured at most
    seconds: float | None = MISSING  # of measured steps at most, once there are minimum_steps; null: no bound
    timeout_s: float = MISSING  # of the whole run, from its start
    stall_s: float | None = (
        MISSING  # without a new step, after the first; null: 20 times the slowest so far, at least 120
    )
    profile_flops: bool = MISSING  # count a warm-up step's operators inside the framework's process, too


@dataclass(frozen=True)
class Tracking:
    """Where results are logged besides the run folder."""

    name: str = MISSING
    mode: str = MISSING  # auto (online when logged in) | online | offline | disabled
    project: str | None = None
    entity: str | None = None


@dataclass(frozen=True)
class Liger:
    """Which of Liger's kernels run where `liger_kernel` is on."""

    rope: bool = MISSING
    rms_norm: bool = MISSING
    swiglu: bool = MISSING
    cross_entropy: bool = MISSING
    fused_linear_cross_entropy: bool = MISSING


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
    liger: Liger = MISSING
    torch_compile: bool = MISSING
    optimizer: str = MISSING
    seed: int = MISSING
    repeat: int = MISSING
    comparison: str = MISSING
    dry_run: bool = MISSING
    resume: bool = MISSING
