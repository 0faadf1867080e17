"""A program: `matmul_cpu.py DTYPE THREADS RANK NUM_RANKS MEETING_PLACE` prints its best matmul rate as one line of JSON.

The ranks wait for each other in the folder MEETING_PLACE, then all multiply for the same time, so that each is measured
while the others work.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# (m, n, k): a small model's projections, then squares that grow until they saturate the machine.
SMALL_SHAPES = ((512, 768, 256), (512, 512, 512), (2048, 512, 1024))
MATMUL_SHAPES = (*SMALL_SHAPES, (1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096))
MEASURED_S = 2.0
# A window may hold but one matmul: far shorter than a scheduler's time slice, some are undisturbed on a busy machine.
CPU_WINDOW_S = 0.0005
LONGEST_CALL_S = 0.2  # a shape whose one matmul takes longer has nothing to add
MEETING_TIMEOUT_S = 90.0


def main(dtype: str, threads: int, rank: int, num_ranks: int, meeting_place: Path) -> dict[str, Any]:
    """The best rate in FLOP/s with its (m, n, k), and the monotonic times in s between which this rank was busy."""
    # Cores of its own, before torch starts its threads: two threads left on one core would halve the rate.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[rank * threads : (rank + 1) * threads])
    import torch

    torch.set_num_threads(threads)
    problems = _warm_problems(getattr(torch, dtype))
    _meet(meeting_place, rank, num_ranks)
    began = time.monotonic()
    spent = dict.fromkeys(problems, 0.0)
    best, best_shape = 0.0, MATMUL_SHAPES[0]
    while (now := time.monotonic()) - began < MEASURED_S:
        shape = min(spent, key=spent.__getitem__)  # equal time, not equal turns, which a large one would eat up
        rate = _rate(shape, *problems[shape])
        spent[shape] += time.monotonic() - now
        if rate > best:
            best, best_shape = rate, shape
    return {
        "flops_per_second": best,
        "shape": best_shape,
        "began_s": began,
        "ended_s": time.monotonic(),
        "torch": torch.__version__,
    }


def _warm_problems(dtype: Any) -> dict[tuple[int, int, int], tuple[Any, Any, Any]]:
    """Warm operands and result of each shape that is small enough; the second transposed, as a linear layer has it."""
    import torch

    problems = {}
    best = 0.0
    for shape in MATMUL_SHAPES:
        m, n, k = shape
        if best and 2 * m * n * k / best > LONGEST_CALL_S:
            break
        a, b, out = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype).T, torch.empty(m, n, dtype=dtype)
        torch.mm(a, b, out=out)
        best = max(best, _rate(shape, a, b, out))
        problems[shape] = (a, b, out)
    return problems


def _rate(shape: tuple[int, int, int], a: Any, b: Any, out: Any) -> float:
    """FLOP/s over one window: 2mnk per matmul."""
    import torch

    m, n, k = shape
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < CPU_WINDOW_S:
        torch.mm(a, b, out=out)
        calls += 1
    return 2 * m * n * k * calls / elapsed


def _meet(meeting_place: Path, rank: int, num_ranks: int) -> None:
    """Return when all ranks are here; SystemExit when one doesn't come."""
    (meeting_place / str(rank)).touch()
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    while len(list(meeting_place.iterdir())) < num_ranks:
        if time.monotonic() > deadline:
            raise SystemExit(f"rank {rank} of {num_ranks} waited {MEETING_TIMEOUT_S} s for the others")
        time.sleep(0.001)


if __name__ == "__main__":
    dtype, threads, rank, num_ranks, meeting_place = sys.argv[1:]
    print(json.dumps(main(dtype, int(threads), int(rank), int(num_ranks), Path(meeting_place))))
