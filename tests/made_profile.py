"""A GPU's profile made up: rows of names and times, as the columns of a rank's file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

HOST = ("name", "start", "duration", "thread", "scope", "asynchronous")
DEVICE = ("name", "start", "duration", "stream", "operator", "launched")
GEMM, NORM, ADD = (
    "nvjet_tst_128x256",
    "_rms_norm_forward",
    "at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add>",
)
NCCL = "ncclDevKernel_AllReduce_Sum_bf16"
Rows = Sequence[tuple[Any, ...]]


def content(host: Rows, device: Rows, boundaries: Sequence[int] = (0, 100, 200)) -> dict[str, Any]:
    """A rank's file; rows as the columns are, with names."""
    names = {name: number for number, name in enumerate(dict.fromkeys(row[0] for row in (*host, *device)))}

    def columns(fields: tuple[str, ...], rows: Rows) -> dict[str, list[Any]]:
        numbered = [(names[row[0]], *row[1:]) for row in rows]
        return {field: [row[n] for row in numbered] for n, field in enumerate(fields)}

    return {
        "names": list(names),
        "boundaries": list(boundaries),
        "host": columns(HOST, host),
        "device": columns(DEVICE, device),
        "shapes": [],
    }


def many_kernels(steps: int, kernels: int) -> dict[str, Any]:
    """Steps of so many kernels on two streams, each launched by an operator of its own."""
    draw, now = random.Random(0), 0
    device: list[tuple[Any, ...]] = []
    host: list[tuple[Any, ...]] = []
    for index in range((steps + 1) * kernels):
        host.append((f"aten::mul{index % 7}", now - 5000, 3000, 1, 0, 0))
        length = draw.randrange(1000, 20_000)
        device.append((draw.choice((GEMM, NORM, ADD, NCCL)), now, length, draw.choice((7, 20)), index, now - 4000))
        now += draw.randrange(5000, 15_000)
    return content(host, device, [device[kernels * step][1] - 4500 for step in range(steps + 1)])
