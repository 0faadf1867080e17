from __future__ import annotations

import math

import pytest

from mfubench.explain.categories import Kind
from mfubench.explain.difference import CONFIDENCE, difference, sentence
from mfubench.explain.exclusive import IDLE
from mfubench.explain.waterfall import StepTime


def run(ms: dict[str, float]) -> StepTime:
    """A run's step of these ms: by category, or by "category kernel"."""
    kinds = {}
    for words, time in ms.items():
        category, _, kernel = words.partition(" ")
        kinds[IDLE if words == "idle" else Kind(category, kernel or category, "compute")] = time / 1e3
    return StepTime(kinds, 0.0, 1.0, 0.0)


TRAINER = {"matmul nvjet_a": 290, "elementwise add": 60, "elementwise mul": 10, "loss ce": 7, "idle": 54}
AXOLOTL = {"matmul nvjet_b": 289, "elementwise add": 68, "elementwise mul": 11, "loss ce": 11, "idle": 75}


def test_the_difference_of_single_runs_is_said_with_its_kernels() -> None:
    found = difference([run(AXOLOTL)], [run(TRAINER)], "single")
    assert (found.basis, found.seconds) == ("single", pytest.approx(0.033))
    assert not any(change.resolved for change in found.categories.values())
    assert sentence(found, "axolotl", "hf_trainer") == (
        "axolotl takes 33 ms more than hf_trainer: idle +21, elementwise +9, loss +4, matmul −1 (single runs). "
        "Largest by name: add +8, ce +4, mul +1."
    )


def test_the_other_way_round_it_takes_less() -> None:
    found = difference([run(TRAINER)], [run(AXOLOTL)], "single")
    assert sentence(found, "hf_trainer", "axolotl").startswith("hf_trainer takes 33 ms less than axolotl: idle −21, ")


def test_matmuls_of_two_libraries_cancel_whatever_they_are_called() -> None:
    one, other = run({"matmul a": 200, "copy": 12}), run({"matmul b": 199, "copy": 2})
    assert [name for name, _ in difference([one], [other], "single").kernels] == ["copy", "a"]


def test_categories_add_up_to_the_difference_of_the_step_times() -> None:
    one = [run({"matmul": 90 + n, "copy": 3 * n, "idle": 7.0}) for n in range(5)]
    other = [run({"matmul": 88, "rotary": 2.5, "idle": 1.0 + n}) for n in range(3)]
    found = difference(one, other, "runs")
    assert sum(change.seconds for change in found.categories.values()) == pytest.approx(found.seconds, abs=1e-12)
    assert found.seconds == pytest.approx((92 + 6 + 7 - 88 - 2.5 - 2) / 1e3)


def test_a_category_is_tested_at_one_in_twelve_of_five_percent() -> None:
    # Differences of 4, 5 and 6 ms: mean 5, s = 1, and t(2; 1 - 0.05/24) = 15.47 / sqrt(3) = 8.9, where 95 % has 2.5.
    one, other = [run({"copy": 10.0 + n, "idle": 5}) for n in (4, 5, 6)], [run({"copy": 10, "idle": 5})] * 3
    found = difference(one, other, "pairs")
    tail = 0.05 / 24  # of Student's t with two degrees of freedom, in closed form
    t = (1 - 2 * tail) * math.sqrt(2 / (1 - (1 - 2 * tail) ** 2))
    assert pytest.approx(1 - 2 * tail) == CONFIDENCE
    assert found.categories["copy"].half == pytest.approx(t / math.sqrt(3) / 1e3)
    assert not found.categories["copy"].resolved
    assert sentence(found, "A", "B") == (
        "A takes 5.00 ms more than B; no category's difference is resolved. Largest by name: copy +5.00."
    )


def test_of_repeats_what_they_resolve_is_said_and_the_rest_together() -> None:
    one = [run({"copy": 30.0 + n / 10, "loss": 5 + 4 * (-1) ** n, "idle": 20}) for n in range(6)]
    other = [run({"copy": 10.0 + n / 10, "loss": 3, "idle": 20}) for n in range(6)]
    found = difference(one, other, "pairs")
    assert [name for name, change in found.categories.items() if change.resolved] == ["copy"]
    assert sentence(found, "A", "B").startswith("A takes 22 ms more than B: copy +20, all others +2. ")


def test_runs_that_arent_pairs_are_tested_by_welch() -> None:
    one, other = [run({"copy": time}) for time in (21, 22, 23)], [run({"copy": time}) for time in (11, 12, 13)]
    half = difference(one, other, "runs").categories["copy"].half
    # Equal spreads, s² = 1 each: t with four degrees of freedom, whose distribution function has a closed form.
    assert half is not None
    t = half * 1e3 / math.sqrt(2 / 3)
    u = t * t / (4 + t * t)
    assert 0.5 + 0.75 * math.sqrt(u) * (1 - u / 3) == pytest.approx(1 - 0.05 / 24, rel=1e-6)
