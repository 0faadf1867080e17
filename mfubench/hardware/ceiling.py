"""A CPU's peak, measured: dtype, ranks and threads in; FLOP/s of one rank out, and a sentence on how it was measured.

Nothing is kept between runs: clocks and neighbours change, and the few seconds are little beside a run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

MATMUL = Path(__file__).with_name("matmul.py")
TORCH_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
TIMEOUT_S = 120.0  # importing torch from a cold disk takes most of it


def matmul_ceiling(
    dtype: str,
    num_ranks: int,
    threads_per_rank: int,
    run_together: Callable[[Sequence[Sequence[str]], Mapping[str, str], float], list[str]],
) -> tuple[float, str]:
    """The best matmul rate of a rank in FLOP/s, all ranks at once, and how it was found.

    Each rank, on cores of its own, keeps the best of many short windows, since whatever else runs on the machine only
    makes a window slower; the figure is the mean over the ranks.
    """
    cores = len(os.sched_getaffinity(0))
    assert num_ranks * threads_per_rank <= cores, (num_ranks, threads_per_rank, cores)
    with tempfile.TemporaryDirectory(prefix="mfubench-") as meeting_place:
        program = [sys.executable, str(MATMUL), TORCH_DTYPES[dtype], str(threads_per_rank)]
        commands = [[*program, str(rank), str(num_ranks), meeting_place] for rank in range(num_ranks)]
        environment = {"OMP_NUM_THREADS": str(threads_per_rank), "OMP_PROC_BIND": "true", "OMP_PLACES": "threads"}
        printed = run_together(commands, environment, TIMEOUT_S)
    ranks = [json.loads(text) for text in printed]
    shape = "x".join(str(size) for size in ranks[0]["shape"])
    how = (
        f"measured before the run: the best {dtype} matmul rate, mean of {num_ranks} rank(s) of {threads_per_rank}"
        f" thread(s) at once (rank 0: {shape}, torch {ranks[0]['torch']})"
    )
    return fmean(rank["flops_per_second"] for rank in ranks), how
