"""The schema: one frozen dataclass per config group, shared by all options of the group, and the Experiment of them all.

A key missing here is an error in a YAML and on the command line. Values, defaults included, live in conf/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Targets = Any  # a list of linear layers' names; or a text: ALL_LINEAR, or a regular expression for their whole names
ALL_LINEAR = "all-linear"
MISSING: Any = "???"  # omegaconf.MISSING, whose import takes longer than a report


@dataclass(frozen=True)
class Framework:
    """A fine-tuning framework as data: its command and its native config."""

    name: str = MISSING
    python: str | None = MISSING  # its interpreter, relative to the project's root; null: mfubench's own
    command: list[Any] | None = MISSING  # argv; a list inside it is spliced in. null: each engine has its own
    environment: dict[str, str] = MISSING
    config_file: str = MISSING  # the native file's name in the run folder; its ending sets the format
    files: dict[str, Any] = field(default_factory=dict)  # files that the native file refers to: name -> content
    variables: dict[str, Any] = field(default_factory=dict)  # the framework's own values for ${variables.NAME}
    random_weights: str = MISSING  # "disk": loads them from the model's folder; "device": draws its own
    loss: str = MISSING  # what backward() is called on: mean | token_sum | mean_of_unshifted, see records/loss.py
    base: dict[str, Any] = MISSING
    when: dict[str, Any] = MISSING
    unsupported: list[Any] = MISSING
    native: dict[str, Any] = MISSING
    engines: list[Any] | None = None  # ways to start it (Engine), the preferred one first; null: `command` alone
    engine: str | None = None  # the engine that must run; null: the first that is installed
    trainer: str | None = None  # the training loop it builds on, a heading of conf/rules.yaml; null: one of its own


@dataclass(frozen=True)
class Engine:
    """One of several ways to start a framework from the same native config."""

    name: str
    probe: list[Any] | None  # argv that exits with 0 if this engine is installed; null: it always is
    command: list[Any]


@dataclass(frozen=True)
class Model:
    """A model with its architecture, in the keys of transformers' config.json."""

    name: str = MISSING
    hub_id: str | None = MISSING
    revision: str | None = MISSING
    weights: str = MISSING  # random | hub
    architecture: dict[str, Any] = MISSING
    config_file: str | None = None  # a config.json that `architecture` is laid over: model=custom alone reads it


@dataclass(frozen=True)
class Mode:
    """The trained part: everything (full), or LoRA over weights as they are (lora) or in 4 bits (qlora).

    LoRA's matrices have `rank` and stand beside the linear layers named in `target_modules`. A sweep over modes sets the
    same values for all of them, so a mode may carry some that it doesn't use.
    """

    name: str = MISSING
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: Targets = None
    use_rslora: bool | None = None  # the update is scaled by alpha / sqrt(rank)
    use_dora: bool | None = None  # the norms of the adapted weights are trained apart (arXiv 2402.09353)
    modules_to_save: list[str] | None = None  # trained in full beside LoRA
    quantization: str | None = None  # nf4 | fp4
    double_quantization: bool | None = None  # the blocks' scales are quantised too, to 8 bits

    @property
    def has_adapters(self) -> bool:
        """True if LoRA matrices are trained, and the weights are frozen."""
        return self.name != "full"

    def adapts(self, layer: str) -> bool:
        """True if LoRA matrices stand beside the linear layer of this dotted name: PEFT's rules."""
        targets = self.target_modules if self.has_adapters else None
        if isinstance(targets, str):
            return layer != "lm_head" if targets == ALL_LINEAR else re.fullmatch(targets, layer) is not None
        return any(layer == name or layer.endswith(f".{name}") for name in targets or [])

    @property
    def four_bit(self) -> str | None:
        """The 4-bit type of the frozen linear layers' weights; None if they have 16 or 32 bits."""
        return self.quantization if self.name == "qlora" else None


@dataclass(frozen=True)
class Parallelism:
    """The number of devices, their launcher (argv after the interpreter), and the classes that show it at work."""

    name: str = MISSING
    num_devices: int = MISSING  # on all nodes together
    num_nodes: int = MISSING
    launcher: list[str] = MISSING
    wrapper: str | None = MISSING  # class name of the wrapper that the probe must see; null: none
    deepspeed: dict[str, Any] | None = None  # its configuration, with `when` as in a framework; null: not DeepSpeed
    fsdp: dict[str, Any] | None = None  # accelerate's settings of FSDP; null: not FSDP

    @property
    def devices_per_node(self) -> int:
        """Devices of the run on each node."""
        return self.num_devices // self.num_nodes


@dataclass(frozen=True)
class Cluster:
    """The nodes of a run: who starts a command on each of them, and how its processes meet.

    Variables are those of the environment; of several, the first that is set counts.
    """

    name: str = MISSING
    several: bool = MISSING  # true: a run may have several nodes
    requires: list[str] = MISSING  # variables that must be set
    otherwise: str | None = MISSING  # what to do if one isn't
    node_rank: list[str] = MISSING  # variables with this node's number, if others start mfubench on every node; else []
    head: list[str] = MISSING  # variables with the first node's address; []: the first node is this host
    port: list[str] = MISSING  # variables with a free port there; []: any that is free here
    per_node: list[str] = MISSING  # argv in front of a command that is to be started on every node; []: only here
    rendezvous: list[str] = MISSING  # torchrun's arguments for all this
    end: str | None = MISSING  # a shell's command that ends what the run has left on other nodes
    join_timeout_s: int = MISSING  # until all nodes have met


@dataclass(frozen=True)
class GradientCheckpointing:
    """The activations recomputed in the backward pass, and the way: none | reentrant | non_reentrant."""

    name: str = MISSING


@dataclass(frozen=True)
class Data:
    """The training data."""

    name: str = MISSING
    path: str | None = None  # a user's JSONL file
    hub_id: str | None = None
    revision: str | None = None
    padding: str = MISSING  # max_length: one shape for all micro-batches; longest: as long as the longest sample


@dataclass(frozen=True)
class Hardware:
    """A device and its dense peaks in FLOP/s by dtype."""

    name: str = MISSING
    device: str = MISSING  # auto | cpu | cuda
    device_name: str | None = None  # words of the driver's name for it; commas between alternatives
    peaks: dict[str, float] = MISSING  # bf16, fp16, tf32, fp8; without bf16, fp32 -> FLOP/s
    multiprocessors: int | None = None  # these two give the clock at which the bf16 peak holds; null: not known
    flops_per_clock: int | None = None  # of one multiprocessor, in dense bf16
    memory_bytes: float | None = None  # by the data sheet; a driver shows a little more; only planning reads it
    source: str | None = None
    peak_flops_per_second: float | None = None  # the user's own figure; overrides all others
    measure_ceiling: bool = False  # also measure the largest matmul rate of this very device
    price_per_hour: float | None = None  # of one device, in US$; null: not known


@dataclass(frozen=True)
class Measurement:
    """The length of the measurement: until the mean step time is known precisely enough, or steps or seconds run out."""

    name: str = MISSING
    warmup_steps: int = MISSING  # never measured; more are left out if the series wasn't steady yet
    relative_precision: float | None = MISSING  # stop at a 95 % interval of ± this fraction of the mean; null: never
    minimum_steps: int = MISSING  # measured at least, up to `steps`; a run ended by the user after these counts
    steps: int = MISSING  # measured at most
    seconds: float | None = MISSING  # of measured steps, at most, once there are minimum_steps; null: no limit
    timeout_s: float = MISSING  # of the whole run, from its start
    stall_s: float | None = MISSING  # without a new step; null: 20 times the slowest so far, at least 120
    profile_flops: bool = MISSING  # also count a warm-up step's operators inside the framework's process
    profile_steps: int = MISSING  # profiled after the measured ones, to explain the step time; 0: none
    keep_trace: bool = MISSING  # keep the profiler's trace of the measured rank in the run folder


@dataclass(frozen=True)
class Tracking:
    """Logging of results besides the run folder."""

    name: str = MISSING
    mode: str = MISSING  # auto (online when logged in) | online | offline | disabled
    project: str | None = None
    entity: str | None = None


@dataclass(frozen=True)
class Liger:
    """The switches of Liger's kernels, in effect if `liger_kernel` is on."""

    rope: bool = MISSING
    rms_norm: bool = MISSING
    swiglu: bool = MISSING
    cross_entropy: bool = MISSING
    fused_linear_cross_entropy: bool = MISSING


@dataclass(frozen=True)
class Experiment:
    """All settings of one run, in the order of `--cfg job`: the framework's long recipe is last."""

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
    mode: Mode = MISSING
    parallelism: Parallelism = MISSING
    gradient_checkpointing: GradientCheckpointing = MISSING
    data: Data = MISSING
    hardware: Hardware = MISSING
    cluster: Cluster = MISSING
    measurement: Measurement = MISSING
    tracking: Tracking = MISSING
    model: Model = MISSING
    framework: Framework = MISSING
