"""Numbers → words with their units, as short as a picture needs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def seconds(value: float) -> str:
    """1.48 s, 412 ms, 85.1 µs."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def short(value: float) -> str:
    """12.5k, 3M, 0.2."""
    scale, letter = next(((scale, letter) for scale, letter in STEPS if value >= scale), (1.0, ""))
    return f"{value / scale:.3g}{letter}"


def flops_per_second(value: float) -> str:
    """392 TFLOP/s."""
    return f"{short(value)[:-1]} {short(value)[-1]}FLOP/s" if value >= 1e3 else f"{value:.3g} FLOP/s"


def percent(value: float) -> str:
    """42.1 %."""
    return f"{100 * value:.3g} %"


def with_interval(mean: float, half: float) -> str:
    """37.62 ± 0.05 %, both with the digits that the interval leaves: at least one, at most three."""
    digits = 3 if half <= 1e-5 else min(max(-math.floor(math.log10(100 * half)), 1), 3)
    return f"{100 * mean:.{digits}f} ± {100 * half:.{digits}f} %"


def axis(values: Sequence[float], words: Callable[[float], str]) -> list[str]:
    """The values of an axis in words, but the unit stands only where it is not the next one's."""
    said = [words(value).partition(" ") for value in values]
    after = [*(unit for _, _, unit in said[1:]), ""]
    return [
        "0" if value == 0 else number if unit == following else f"{number} {unit}".rstrip()
        for value, (number, _, unit), following in zip(values, said, after, strict=True)
    ]


def gibibytes(value: float) -> str:
    """40.2 GiB."""
    return f"{value:.3g} GiB"
