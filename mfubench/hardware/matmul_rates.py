"""Measured matmul rates: the best FLOP/s of one device, and a sentence on how it was measured.

A CPU's rate is measured before every run: clocks and neighbours change, and a few seconds are little beside a run. A GPU's
is kept in the cache folder, for it takes longer and no other program shares the GPU.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mfubench.files.whole import write_whole
from mfubench.hardware.cores import usable_cores
from mfubench.hardware.machine import Machine

PROGRAM = Path(__file__).with_name("matmul.py")
TIMEOUT_S = 120.0  # importing torch from a cold disk takes most of it
CPU_SECONDS = 2.0
STUDENT_T_OF_5 = 2.776  # two-sided, 95 %, of five values
SEARCH_SECONDS = 6.0
SEARCH_SIZES = (2048, 4096, 8192, 16384)
# Commands to start at once, variables of their environment, timeout in seconds -> the output of each.
RunTogether = Callable[[Sequence[Sequence[str]], Mapping[str, str], float], list[str]]


def cpu_rate(dtype: str, num_ranks: int, threads_per_rank: int, run_together: RunTogether) -> tuple[float, str, float]:
    """Measure the best matmul rate of a CPU rank, all ranks at once.

    Each rank, on cores of its own, keeps the best of many short windows, since whatever else runs on the machine only
    makes a window slower.

    Returns:
        FLOP/s, the mean over the ranks; how they were measured; and the half width of its 95 % interval as a fraction, by
        Student's t, with the spread of the best rates of five sections of the time for its standard deviation.

    Raises:
        RuntimeError: it can't be measured.
    """
    cores = usable_cores()
    assert num_ranks * threads_per_rank <= cores, (num_ranks, threads_per_rank, cores)
    with tempfile.TemporaryDirectory(prefix="mfubench-") as meeting_place:
        program = [sys.executable, str(PROGRAM), "cpu", dtype, str(CPU_SECONDS), "--meeting-place", meeting_place]
        commands = [[*program, "--rank", *map(str, (rank, num_ranks, threads_per_rank))] for rank in range(num_ranks)]
        environment = {"OMP_NUM_THREADS": str(threads_per_rank), "OMP_PROC_BIND": "true", "OMP_PLACES": "threads"}
        ranks = [json.loads(text) for text in run_together(commands, environment, TIMEOUT_S)]
    how = (
        f"measured before the run: the best {dtype} matmul rate, mean of {num_ranks} rank(s) of {threads_per_rank}"
        f" thread(s) at once (rank 0: {_shape_and_torch(ranks[0])})"
    )
    sections = [fmean(bests) for bests in zip(*(rank["best_of_sections"] for rank in ranks), strict=True)]
    half_width = STUDENT_T_OF_5 * stdev(sections) / fmean(sections)
    return fmean(rank["flops_per_second"] for rank in ranks), how, half_width


def gpu_rate(
    machine: Machine, dtype: str, num_devices: int, run_together: RunTogether, folder: Path
) -> tuple[float, str]:
    """Search for the largest matmul rate of a GPU in FLOP/s. Returns the mean over `num_devices` at once, and how it was found.

    A rate is kept in `folder` for each GPU, driver, torch, dtype and method, and found there the next time. Raises
    RuntimeError if one can't be measured.
    """
    files = {uuid: folder / f"{_rate_key(machine, uuid, dtype)}.json" for uuid in machine.uuids[:num_devices]}
    missing = [uuid for uuid, file in files.items() if not file.is_file()]
    measured = [dtype, str(SEARCH_SECONDS), *map(str, SEARCH_SIZES)]
    commands = [[sys.executable, str(PROGRAM), uuid, *measured] for uuid in missing]
    for uuid, printed in zip(missing, run_together(commands, {}, TIMEOUT_S) if commands else (), strict=True):
        rate = {**json.loads(printed.splitlines()[-1]), "uuid": uuid, "dtype": dtype, "driver": machine.driver}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(files[uuid], json.dumps(rate, indent=1))
    rates = [json.loads(file.read_text()) for file in files.values()]
    how = (
        f"measured {'now' if missing else 'before'}: the largest {dtype} matmul rate, mean of {len(rates)} GPU(s)"
        f" (GPU 0: {_shape_and_torch(rates[0])}, driver {machine.driver}); kept in {folder}"
    )
    return fmean(rate["flops_per_second"] for rate in rates), how


def _shape_and_torch(rate: Mapping[str, Any]) -> str:
    return f"{'x'.join(map(str, rate['shape']))}, torch {rate['torch']}"


def _rate_key(machine: Machine, uuid: str, dtype: str) -> str:
    """Hash all that the rate depends on, but for the device's power limit and neighbours."""
    device = (machine.device_name, uuid, machine.driver, version("torch"), dtype)
    made_of = (*device, SEARCH_SECONDS, SEARCH_SIZES, PROGRAM.read_text())
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
