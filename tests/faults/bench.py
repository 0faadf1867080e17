"""The fault matrix, many times: `make bench-faults`. Prints a line for each fault; exit status 1 if any went wrong.

python tests/faults/bench.py [TIMES]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matrix import ALONE, OF_RANKS, Fault, Injected, can_limit_memory, inject
from own_death import DEATHS, die

TIMES = 10
ROW = "{:24} {:>5} {:14} {:>7} {:>14} {:>18}"


def row(fault: Fault, all_of_it: Sequence[Injected]) -> bool:
    """Print what a fault came to; whether it was always right."""
    results = [each.result for each in all_of_it if each.result is not None]
    seconds = [result["outcome"]["cleanup_s"] for result in results]
    left = sum(len(each.left) for each in all_of_it)
    given = ",".join(sorted({result["status"] for result in results}))
    spent = f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else "-"
    print(ROW.format(fault.name, len(all_of_it), given, f"{len(results)}/{len(all_of_it)}", left, spent), flush=True)
    wrong = [f"  {each}" for injected in all_of_it for each in injected.wrong]
    print("\n".join(wrong), end="\n" if wrong else "", flush=True)
    return not wrong


def main(times: int) -> int:
    """All faults; the exit status."""
    print(ROW.format("fault", "times", "status", "intact", "processes left", "clean-up s: median, max"), flush=True)
    fine = True
    for faults, ranks in ((ALONE, 1), (OF_RANKS, 2)):
        possible = [f for f in faults if f.name != "killed_by_the_kernel" or can_limit_memory()]
        with tempfile.TemporaryDirectory() as folder:
            sweep = inject(possible, Path(folder), times, ranks=ranks)
        for fault in possible:
            fine &= row(fault, [each for each in sweep.injected if each.fault == fault])
        print("".join(f"  left after all: {process}\n" for process in sweep.left), end="", flush=True)
        fine &= not sweep.left
    for death in DEATHS:
        ends = []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as folder:
                ends.append(die(death, Path(folder)))
        seconds = [end.seconds for end in ends]
        left = sum(len(end.left) for end in ends)
        right = sum(end.status == death.status for end in ends)
        given = ",".join(sorted({end.status or "no result" for end in ends}))
        spent = f"{statistics.median(seconds):.1f}, {max(seconds):.1f}"
        print(ROW.format(death.name, times, given, f"{right}/{times}", left, spent), flush=True)
        fine &= not left and right == times and not any(end.tell_a_secret for end in ends)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else TIMES))
