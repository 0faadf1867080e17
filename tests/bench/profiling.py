"""What explaining a step time takes, and what it does to the steps before it. In: a folder. Out: Lines, a Comparison."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from mfubench.explain.exclusive import exclusive
from mfubench.explain.timeline import timeline
from mfubench.measure.ratio import paired
from mfubench.result import Result, read_result

from ..made_profile import many_kernels
from .figures import Comparison, Line, run

REPEATS = 6
REDUCTIONS = 3
REDUCTION_GOAL_S = 5.0


def profiling(folder: Path) -> tuple[list[Line], list[Comparison]]:
    """Runs with a profile of three steps and without, in turns; and the reduction of a large profile of three steps."""
    made = [(_measured(folder, f"{n}-with", 3), _measured(folder, f"{n}-without", 0)) for n in range(REPEATS)]
    profiled_s, plain_s = ([pair[side].measurement.step_time_s for pair in made] for side in (0, 1))
    costs = [profiled.explanation.cost_s for profiled, _ in made if profiled.explanation]
    assert len(costs) == REPEATS, [profiled.no_explanation for profiled, _ in made]
    lines = [
        Line("from the last measured step to the end of a profile of three", "s", costs, None),
        Line("its reduction at 20,000 kernels a step", "s", [_reduced() for _ in range(REDUCTIONS)], REDUCTION_GOAL_S),
    ]
    same = Comparison(
        "measured steps with a profile after them over without", paired(profiled_s, plain_s), (1.0, 1.0), False
    )
    return lines, [same]


def _measured(folder: Path, name: str, profile_steps: int) -> Result:
    """The result of a run of the default setting."""
    run_folder = folder / "profiled" / name
    steps = ("measurement.minimum_steps=20", "measurement.steps=20", f"measurement.profile_steps={profile_steps}")
    own = ("measurement=quick", *steps, "tracking=none", "hardware.peak_flops_per_second=1e12")
    run([sys.executable, "-m", "mfubench", *own, f"hydra.run.dir={run_folder}"], folder)
    result = read_result(run_folder / "result.json")
    assert result.status == "ok", result.reason
    return result


def _reduced() -> float:
    """Seconds from a rank's file to its exclusive times."""
    text = json.dumps(many_kernels(steps=3, kernels=20_000))
    began = time.perf_counter()
    lines = timeline(json.loads(text), "cuda")
    exclusive(lines.spans, lines.start, lines.end)
    return time.perf_counter() - began
