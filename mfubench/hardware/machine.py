"""Detect the devices of this machine that a run may use.

GPUs are read through NVIDIA's management library, which needs no CUDA context: this process stays off the GPU. GPUs of
other makers are not seen. Run on one H200, and not yet on several GPUs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfubench.config import Hardware
from mfubench.hardware.catalogue import known_peaks, means
from mfubench.hardware.cores import usable_cores

BF16_SINCE = (8, 0)  # the first compute capability whose tensor cores take bf16 (Ampere)


class Unavailable(Exception):
    """This machine can't do what the settings, valid as they are, ask for. The message is the reason."""


@dataclass(frozen=True)
class Machine:
    """Devices that a run may use on this machine, all of one kind."""

    device: str  # cpu | cuda
    device_name: str  # as the driver reports it; a CPU's is its model
    num_devices: int  # visible GPUs; on a CPU the cores this process may use, since a rank takes at least one
    cores: int  # of the CPU that this process may use
    supports_bf16: bool
    driver: str | None
    memory_bytes: int | None  # per device; on a CPU the host's
    uuids: tuple[str, ...] = ()  # of the visible GPUs, in the order in which a process numbers them

    @property
    def has_tf32(self) -> bool:
        """True for a GPU that can multiply in TF32: it came with bf16."""
        return self.device == "cuda" and self.supports_bf16


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver lists it."""

    uuid: str
    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]


def detect(hardware: Hardware) -> Machine:
    """Detect the devices that `hardware` asks for. Raises Unavailable if they aren't here."""
    if hardware.device == "cpu":
        return _cpu()
    driver, listed = _driver_lists()
    machine = of_gpus(hardware, driver, listed, os.environ)
    if machine is None and hardware.device == "cuda":
        hidden = f"; CUDA_VISIBLE_DEVICES hides the {len(listed)} that are here" if listed else ""
        raise Unavailable(
            f"hardware={hardware.name} needs a CUDA device, and NVIDIA's driver shows none{hidden};"
            " hardware=cpu measures on the CPU"
        )
    return machine or _cpu()


def planned(hardware: Hardware, num_devices: int) -> Machine:
    """Describe a machine of `num_devices` GPUs of the kind that `hardware` names, by its data sheet; it need not be here."""
    assert hardware.device_name is not None
    return Machine(
        device=hardware.device,
        device_name=hardware.device_name,
        num_devices=num_devices,
        cores=usable_cores(),
        supports_bf16="bf16" in hardware.peaks,
        driver=None,
        memory_bytes=None if hardware.memory_bytes is None else int(hardware.memory_bytes),
    )


def of_gpus(
    hardware: Hardware, driver: str | None, listed: Sequence[Gpu], environment: Mapping[str, str]
) -> Machine | None:
    """Describe the machine by the GPUs that a process with this environment would see; None if it would see none.

    `listed`: every GPU of the machine, in PCI order. CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are read from `environment`.
    Raises Unavailable if the visible GPUs are of several kinds, or of another kind than `hardware` names.
    """
    gpus = visible(listed, environment.get("CUDA_VISIBLE_DEVICES"), environment.get("CUDA_DEVICE_ORDER"))
    if not gpus:
        return None
    names = sorted({gpu.name for gpu in gpus})
    if len(names) > 1:
        raise Unavailable(
            f"the visible GPUs differ ({', '.join(names)}), so they have no common peak;"
            " choose GPUs of one kind with CUDA_VISIBLE_DEVICES"
        )
    option = known_peaks(names[0])
    if hardware.device_name is not None and option is not None and not means(hardware, names[0]):
        raise Unavailable(f"hardware={hardware.name} is not what is here: {names[0]} is hardware={option.name}")
    return Machine(
        device="cuda",
        device_name=names[0],
        num_devices=len(gpus),
        cores=usable_cores(),
        supports_bf16=all(gpu.compute_capability >= BF16_SINCE for gpu in gpus),
        driver=driver,
        memory_bytes=min(gpu.memory_bytes for gpu in gpus),
        uuids=tuple(gpu.uuid for gpu in gpus),
    )


def resolve_precision(precision: str, machine: Machine) -> str:
    """Resolve `auto`: bf16 on a GPU that has it, else fp32. Raises Unavailable for bf16 on a GPU that hasn't."""
    if precision == "auto":
        return "bf16" if machine.device == "cuda" and machine.supports_bf16 else "fp32"
    if precision.startswith("bf16") and not machine.supports_bf16:
        raise Unavailable(
            f"precision={precision} needs bf16, which {machine.device_name} doesn't have; try precision=fp32"
        )
    return precision


def visible(listed: Sequence[Gpu], chosen: str | None, order: str | None) -> list[Gpu]:
    """List the GPUs that CUDA would show, in its order.

    By the CUDA programming guide, entries are indices or beginnings of UUIDs, and the first that means no GPU ends the list.
    By torch.cuda, a GPU given twice hides all.

    Args:
        listed: every GPU of the machine, in PCI order.
        chosen: CUDA_VISIBLE_DEVICES, None if it isn't set.
        order: CUDA_DEVICE_ORDER, None if it isn't set.

    Raises:
        Unavailable: an index could mean either of two kinds of GPU, or an entry names a slice of a GPU (MIG).
    """
    if chosen is None:
        return list(listed)
    shown: list[Gpu] = []
    for entry in (part.strip() for part in chosen.split(",")):
        if entry.startswith("MIG-"):
            raise Unavailable(f"CUDA_VISIBLE_DEVICES={chosen} names a slice of a GPU; only whole GPUs are measured")
        if entry.isdigit() and len({gpu.name for gpu in listed}) > 1 and order != "PCI_BUS_ID":
            raise Unavailable(
                f"CUDA_VISIBLE_DEVICES={chosen} numbers the GPUs in CUDA's own order, which is unknown here, for they are"
                " of different kinds; name them by UUID, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
            )
        meant = [
            gpu
            for index, gpu in enumerate(listed)
            if entry == str(index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
        ]
        if len(meant) != 1:
            break
        if meant[0] in shown:
            return []
        shown += meant
    return shown


def _driver_lists() -> tuple[str | None, list[Gpu]]:
    """Ask NVML for the driver's version and every GPU of the machine, in PCI order; (None, []) without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None, []
    except pynvml.NVMLError as error:
        raise Unavailable(f"NVIDIA's driver doesn't answer ({error}); hardware=cpu measures on the CPU") from error
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return pynvml.nvmlSystemGetDriverVersion(), [_read(handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _read(handle: object) -> Gpu:
    import pynvml

    name = pynvml.nvmlDeviceGetName(handle)
    try:
        sliced = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError_NotSupported:
        sliced = False
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=f"{name} MIG" if sliced else name,  # CUDA would show a slice, whose peak isn't the GPU's
        memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        compute_capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
    )


def _cpu() -> Machine:
    cores = usable_cores()
    return Machine(
        device="cpu",
        device_name=_cpu_name(),
        num_devices=cores,
        cores=cores,
        supports_bf16=True,  # torch computes it on any CPU; how fast is measured
        driver=None,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _cpu_name() -> str:
    """Model of the CPU as the kernel names it; the architecture if the kernel names none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
