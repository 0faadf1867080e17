"""Matmul rates measured here: devices and a dtype in; FLOP/s of one device out, and a sentence on how it was measured.

A CPU's is measured before every run: clocks and neighbours change, and the few seconds are little beside a run. A GPU's
is kept, for it takes longer and the GPU is the run's alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from mfubench.files.whole import write_whole
from mfubench.hardware.machine import Machine

CPU_PROGRAM = Path(__file__).with_name("matmul_cpu.py")
GPU_PROGRAM = Path(__file__).with_name("matmul_gpu.py")
CPU_TORCH_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
TIMEOUT_S = 120.0  # importing torch from a cold disk takes most of it
SEARCH_S = 6.0
SEARCH_SIZES = (2048, 4096, 8192, 16384)
RunTogether = Callable[[Sequence[Sequence[str]], Mapping[str, str], float], list[str]]


def cpu_rate(dtype: str, num_ranks: int, threads_per_rank: int, run_together: RunTogether) -> tuple[float, str]:
    """The best matmul rate of a rank in FLOP/s, all ranks at once, and how it was found.

    Each rank, on cores of its own, keeps the best of many short windows, since whatever else runs on the machine only
    makes a window slower; the figure is the mean over the ranks. RuntimeError where it can't be measured.
    """
    cores = len(os.sched_getaffinity(0))
    assert num_ranks * threads_per_rank <= cores, (num_ranks, threads_per_rank, cores)
    with tempfile.TemporaryDirectory(prefix="mfubench-") as meeting_place:
        program = [sys.executable, str(CPU_PROGRAM), CPU_TORCH_DTYPES[dtype], str(threads_per_rank)]
        commands = [[*program, str(rank), str(num_ranks), meeting_place] for rank in range(num_ranks)]
        environment = {"OMP_NUM_THREADS": str(threads_per_rank), "OMP_PROC_BIND": "true", "OMP_PLACES": "threads"}
        printed = run_together(commands, environment, TIMEOUT_S)
    ranks = [json.loads(text) for text in printed]
    how = (
        f"measured before the run: the best {dtype} matmul rate, mean of {num_ranks} rank(s) of {threads_per_rank}"
        f" thread(s) at once (rank 0: {_shape_in_words(ranks[0])}, torch {ranks[0]['torch']})"
    )
    return fmean(rank["flops_per_second"] for rank in ranks), how


def gpu_rate(
    machine: Machine, dtype: str, num_devices: int, run_together: RunTogether, folder: Path
) -> tuple[float, str]:
    """The largest matmul rate of the first `num_devices` GPUs in FLOP/s, their mean, and how it was found.

    A search over large shapes, on all GPUs at once; kept in `folder` for each GPU with its driver, torch and dtype, and
    found there the next time. RuntimeError where it can't be measured.
    """
    files = {uuid: folder / f"{_rate_key(machine, uuid, dtype)}.json" for uuid in machine.uuids[:num_devices]}
    missing = [uuid for uuid, file in files.items() if not file.is_file()]
    sizes = [str(size) for size in SEARCH_SIZES]
    commands = [[sys.executable, str(GPU_PROGRAM), uuid, dtype, str(SEARCH_S), *sizes] for uuid in missing]
    for uuid, printed in zip(missing, run_together(commands, {}, TIMEOUT_S) if commands else (), strict=True):
        measured = {**json.loads(printed.splitlines()[-1]), "uuid": uuid, "dtype": dtype, "driver": machine.driver}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(files[uuid], json.dumps(measured, indent=1))
    rates = [json.loads(file.read_text()) for file in files.values()]
    how = (
        f"measured {'now' if missing else 'before'}: the largest {dtype} matmul rate, mean of {len(rates)} GPU(s) (GPU 0: "
        f"{_shape_in_words(rates[0])}, torch {rates[0]['torch']}, driver {machine.driver}); kept in {folder}"
    )
    return fmean(each["flops_per_second"] for each in rates), how


def _shape_in_words(measured: Mapping[str, Any]) -> str:
    return "x".join(str(size) for size in measured["shape"])


def _rate_key(machine: Machine, uuid: str, dtype: str) -> str:
    """All that the rate depends on; the device's power limit and neighbours aside."""
    made_of = (
        machine.device_name,
        uuid,
        machine.driver,
        version("torch"),
        dtype,
        SEARCH_S,
        SEARCH_SIZES,
        GPU_PROGRAM.read_text(),
    )
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
