"""A program: `matmul_gpu.py DEVICE DTYPE SECONDS SIZE...` prints the largest matmul rate it finds as one line of JSON.

DEVICE is a GPU's UUID, or cpu; DTYPE bf16, fp16, tf32, fp32 or fp8; the SIZEs are those between which it searches.
On a GPU it is not yet run on CUDA.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "tf32": "float32", "fp32": "float32", "fp8": "float8_e4m3fn"}
WARMUP_S = 1.0  # a cold device runs for a moment at clocks that it can't keep
GPU_WINDOW_S = 0.02
MIN_STEP = 64  # the smallest step: tiles of kernels are multiples of it
REMEASURED_SHAPES = 4
MatmulShape = tuple[int, int, int]  # m, n, k: [m, k] x [k, n]


def main(device: str, dtype: str, seconds: float, sizes: Sequence[int]) -> dict[str, Any]:
    """The largest rate in FLOP/s, with its (m, n, k)."""
    if device != "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before torch looks: this GPU is then its only one
    import torch

    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    rate = rate_function("cpu" if device == "cpu" else "cuda", dtype, max(sizes))
    warm_at = time.monotonic() + WARMUP_S
    while time.monotonic() < warm_at:
        rate((max(sizes),) * 3)
    deadline = time.monotonic() + seconds
    shape, best = search(rate, sizes, over=lambda: time.monotonic() > deadline)
    return {"flops_per_second": best, "shape": shape, "torch": torch.__version__}


def search(
    rate: Callable[[MatmulShape], float], sizes: Sequence[int], over: Callable[[], bool]
) -> tuple[MatmulShape, float]:
    """The shape with the largest rate and that rate, the best of all windows that `rate` measured.

    First every combination of the sizes; then the neighbours of the best in each dimension, with a step that halves
    whenever none of them is better; then the best few again until the time is `over`.
    """
    best: dict[MatmulShape, float] = {}

    def remeasure(shape: MatmulShape) -> None:
        best[shape] = max(best.get(shape, 0.0), rate(shape))

    for m, n, k in product(sizes, repeat=3):
        remeasure((m, n, k))
    step = min(sizes) // 2
    while step >= MIN_STEP and not over():
        centre = max(best, key=best.__getitem__)
        for neighbour in _neighbours(centre, step, max(sizes)):
            if neighbour not in best:
                remeasure(neighbour)
        if max(best, key=best.__getitem__) == centre:
            step //= 2
    while not over():
        for shape in sorted(best, key=best.__getitem__, reverse=True)[:REMEASURED_SHAPES]:
            remeasure(shape)
    return max(best.items(), key=lambda rate_now: rate_now[1])


def _neighbours(shape: MatmulShape, step: int, largest: int) -> Iterator[MatmulShape]:
    m, n, k = shape
    for change in (-step, step):
        for near in ((m + change, n, k), (m, n + change, k), (m, n, k + change)):
            if min(near) > 0 and max(near) <= largest:
                yield near


def rate_function(device: str, dtype: str, largest: int) -> Callable[[MatmulShape], float]:
    """Make a function from a shape to its FLOP/s (2mnk per matmul) in one window; no dimension may exceed `largest`."""
    import torch

    # Numbers like those of training: of zeros a device multiplies more, since they take less power.
    first, second = (torch.randn(largest**2, device=device).to(getattr(torch, TORCH_DTYPES[dtype])) for _ in range(2))
    one, best = torch.ones((), device=device), 0.0

    def rate(shape: MatmulShape) -> float:
        nonlocal best
        m, n, k = shape
        a, b = first[: m * k].view(m, k), second[: n * k].view(n, k).T  # transposed, as a linear layer has it

        def multiply() -> Any:
            if dtype == "fp8":
                return torch._scaled_mm(
                    a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=device == "cuda"
                )
            return torch.mm(a, b)

        multiply()  # the library chooses its kernel, and the device has something to do when the clock starts
        calls = max(1, round(GPU_WINDOW_S * best / (2 * m * n * k)))
        rate_now = 2 * m * n * k * calls / _device_seconds(multiply, calls, device)
        best = max(best, rate_now)
        return rate_now

    return rate


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
    """An event of the device, behind the work that it was given so far."""
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


if __name__ == "__main__":
    chosen, kind, limit, *between = sys.argv[1:]
    print(json.dumps(main(chosen, kind, float(limit), [int(size) for size in between])))
