"""Program: measure the best matmul rate of a device and print it as one line of JSON.

`matmul.py GPU_UUID DTYPE SECONDS SIZE...` searches the shapes between the sizes, for a GPU's ceiling. The search has run on
an H200 as a program of its own, and not yet on CUDA as part of this one.
`matmul.py cpu DTYPE SECONDS --rank ...` measures a few fixed shapes in windows so short that some are undisturbed even on a
busy machine. The ranks first wait for each other in a folder, so that each is measured while the others work.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any

TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "tf32": "float32", "fp32": "float32", "fp8": "float8_e4m3fn"}
MatmulShape = tuple[int, int, int]  # m, n, k: [m, k] x [k, n]
RateFunction = Callable[[MatmulShape], float]  # a shape -> FLOP/s, in one window

WARMUP_S = 1.0  # a cold device runs for a moment at clocks that it can't keep
GPU_WINDOW_S = 0.02
MIN_STEP = 64  # the smallest step of a search: tiles of kernels are multiples of it
REMEASURED_SHAPES = 4

# A small model's projections, then squares that grow until they saturate the machine.
SMALL_SHAPES = ((512, 768, 256), (512, 512, 512), (2048, 512, 1024))
CPU_SHAPES = (*SMALL_SHAPES, (1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096))
# A window may hold but one matmul: far shorter than a scheduler's time slice, some are undisturbed on a busy machine.
CPU_WINDOW_S = 0.0005
LONGEST_CALL_S = 0.2  # a shape whose one matmul takes longer has nothing to add
SECTIONS = 5  # of the time on a CPU: the spread of their best rates says how well the peak is known
MEETING_TIMEOUT_S = 90.0


def main() -> dict[str, Any]:
    """Measure the best rate that the command line asks for, in FLOP/s.

    Returns it with its shape (m, n, k), the best of each section of the time, torch's version, and the monotonic times in
    seconds between which the device was busy.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", help="a GPU's UUID, or cpu")
    parser.add_argument("dtype", choices=TORCH_DTYPES)
    parser.add_argument("seconds", type=float, help="time to measure, after the warm-up")
    parser.add_argument("sizes", type=int, nargs="*", help="values of m, n and k to search between")
    parser.add_argument("--rank", type=int, nargs=3, metavar=("RANK", "NUM_RANKS", "THREADS"))
    parser.add_argument("--meeting-place", type=Path, metavar="FOLDER", help="where the ranks wait for each other")
    given = parser.parse_args()
    if given.device != "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = given.device  # before torch looks: this GPU is then its only one
    if given.rank:
        rank, num_ranks, threads = given.rank
        # Cores of its own, before torch starts its threads: two threads left on one core would halve the rate.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[rank * threads : (rank + 1) * threads])
    import torch

    torch.set_float32_matmul_precision("high" if given.dtype == "tf32" else "highest")
    if given.rank:
        torch.set_num_threads(threads)
        measure = partial(take_turns, _warm_rates(given.dtype))
        sections = SECTIONS
        _meet(given.meeting_place, rank, num_ranks)
    else:
        rate = rate_function("cpu" if given.device == "cpu" else "cuda", given.dtype, max(given.sizes))
        warm_at = time.monotonic() + WARMUP_S
        while time.monotonic() < warm_at:
            rate((max(given.sizes),) * 3)
        measure = partial(search, rate, given.sizes)
        sections = 1
    began = time.monotonic()
    ends = [began + given.seconds * (section + 1) / sections for section in range(sections)]
    found = [measure(over=partial(_is_past, end)) for end in ends]
    ended = time.monotonic()
    shape, best = max(found, key=itemgetter(1))
    rates = {"flops_per_second": best, "shape": shape, "best_of_sections": [section_best for _, section_best in found]}
    return {**rates, "torch": torch.__version__, "began_s": began, "ended_s": ended}


def _is_past(end_s: float) -> bool:
    return time.monotonic() > end_s


def search(rate: RateFunction, sizes: Sequence[int], over: Callable[[], bool]) -> tuple[MatmulShape, float]:
    """Search for the shape with the largest rate: the best of all windows that `rate` measured.

    First every combination of the sizes; then the neighbours of the best in each dimension, with a step that halves
    whenever none of them is better; then the best few again until the time is `over`. Returns the shape and its rate.
    """
    best: dict[MatmulShape, float] = {}

    def remeasure(shape: MatmulShape) -> None:
        best[shape] = max(best.get(shape, 0.0), rate(shape))

    for m, n, k in product(sizes, repeat=3):
        remeasure((m, n, k))
    step = min(sizes) // 2
    while step >= MIN_STEP and not over():
        m, n, k = centre = max(best, key=best.__getitem__)
        for change in (-step, step):
            for near in ((m + change, n, k), (m, n + change, k), (m, n, k + change)):
                if min(near) > 0 and max(near) <= max(sizes) and near not in best:
                    remeasure(near)
        if max(best, key=best.__getitem__) == centre:
            step //= 2
    while not over():
        for shape in sorted(best, key=best.__getitem__, reverse=True)[:REMEASURED_SHAPES]:
            remeasure(shape)
    return max(best.items(), key=itemgetter(1))


def take_turns(rates: Mapping[MatmulShape, RateFunction], over: Callable[[], bool]) -> tuple[MatmulShape, float]:
    """Measure the shapes in turn until the time is `over`; return the shape with the largest rate, and that rate."""
    best, spent = dict.fromkeys(rates, 0.0), dict.fromkeys(rates, 0.0)
    while not over():
        shape = min(spent, key=spent.__getitem__)  # equal time, not equal turns, which a large one would eat up
        began = time.monotonic()
        best[shape] = max(best[shape], rates[shape](shape))
        spent[shape] += time.monotonic() - began
    return max(best.items(), key=itemgetter(1))


def rate_function(device: str, dtype: str, largest: int) -> RateFunction:
    """Make a function from a shape to its FLOP/s (2mnk per matmul) in one window; no dimension may exceed `largest`."""
    import torch

    # Numbers like those of training: of zeros a device multiplies more, since they take less power.
    first, second = (torch.randn(largest**2, device=device).to(getattr(torch, TORCH_DTYPES[dtype])) for _ in range(2))
    # On a CPU each new result would cost page faults; on a GPU torch reuses the memory.
    result = torch.empty_like(first) if device == "cpu" else None
    one, best = torch.ones((), device=device), 0.0

    def rate(shape: MatmulShape) -> float:
        nonlocal best
        m, n, k = shape
        a, b = first[: m * k].view(m, k), second[: n * k].view(n, k).T  # transposed, as a linear layer has it
        out = None if result is None else result[: m * n].view(m, n)

        def multiply() -> Any:
            if dtype == "fp8":
                return torch._scaled_mm(
                    a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=device == "cuda"
                )
            return torch.mm(a, b, out=out)

        if device == "cuda":
            multiply()  # the library chooses its kernel, and the device has something to do when the clock starts
        window_s = CPU_WINDOW_S if device == "cpu" else GPU_WINDOW_S
        calls = max(1, round(window_s * best / (2 * m * n * k)))
        rate_now = 2 * m * n * k * calls / _device_seconds(multiply, calls, device)
        best = max(best, rate_now)
        return rate_now

    return rate


def _warm_rates(dtype: str) -> dict[MatmulShape, RateFunction]:
    """Rate functions of the shapes that a CPU multiplies quickly enough, each called twice: the first call is slower."""
    rates: dict[MatmulShape, RateFunction] = {}
    best = 0.0
    for shape in CPU_SHAPES:
        if best and 2 * prod(shape) / best > LONGEST_CALL_S:
            break
        rates[shape] = rate_function("cpu", dtype, max(shape))
        best = max(best, rates[shape](shape), rates[shape](shape))
    return rates


def _device_seconds(call: Callable[[], Any], times: int, device: str) -> float:
    """Seconds that `times` calls take, by the device's own clock."""
    import torch

    clock: Callable[[], Any] = time.perf_counter if device == "cpu" else _mark
    started = clock()
    for _ in range(times):
        call()
    ended = clock()
    if device == "cpu":
        return float(ended - started)
    torch.cuda.synchronize()
    return float(started.elapsed_time(ended)) / 1e3


def _mark() -> Any:
    """Record an event of the device, behind the work that it was given so far."""
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _meet(meeting_place: Path, rank: int, num_ranks: int) -> None:
    """Return when all ranks are here. Raises SystemExit if one doesn't come."""
    (meeting_place / str(rank)).touch()
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    while len(list(meeting_place.iterdir())) < num_ranks:
        if time.monotonic() > deadline:
            raise SystemExit(f"rank {rank} of {num_ranks} waited {MEETING_TIMEOUT_S} s for the others")
        time.sleep(0.001)


if __name__ == "__main__":
    print(json.dumps(main()))
