"""Where a step's time goes, as every form of the report says it."""

from __future__ import annotations

import csv
import html
import io
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_results import H200_STEP_S, h200_lora, on_a_cpu
from rich.console import Console
from rich.text import Text

from mfubench.explain.categories import CATEGORIES
from mfubench.files.paths import ROOT
from mfubench.report.html import page
from mfubench.report.overview import overview
from mfubench.report.pooling import pool
from mfubench.report.ratios import compare
from mfubench.report.step_time import explained
from mfubench.report.table import show
from mfubench.report.to_csv import csv_text
from mfubench.report.to_markdown import markdown_text
from mfubench.result import Result, read_result, write_result
from mfubench.result.flat import run_records

Made = Callable[..., Result]
LINE = (
    "504.3 ms: matmul 58%, attention 5%, normalisation 4%, elementwise 14%, rotary 2%, loss 2%, optimizer 1%, copy 1%, idle 15%"
    "; profiled steps took 1.11× as long"
)
SLOWER = (
    "hf_trainer lora · seed 1 takes 33 ms more than hf_trainer lora · seed 0: idle +21, elementwise +9, loss +4, matmul −1 "
    "(single runs). Largest by name: vectorized_elementwise_kernel<CUDAFunctor_add> +8. SM clocks 1,833 and 1,866 MHz."
)


def bars(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and set(line) <= set("█▓░")]


def words(text: str, title: str, kind: str) -> list[str]:
    """The texts of a kind in a picture, line by line."""
    groups = re.findall(rf'<g class="{kind}">(.*?)</g>', picture(text, title), re.DOTALL)
    return [html.unescape(word) for group in groups for word in re.findall(r">([^<]*)</text>", group)]


def ends(text: str, title: str) -> list[tuple[float, float]]:
    """Left and right end of each bar of a picture, from the top, and from the left."""
    found = []
    for group in re.findall(r'<g class="bar">(.*?)</g>', picture(text, title), re.DOTALL):
        corners = [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", group)]
        xs, ys = zip(*corners, strict=True)
        found.append((round(min(ys)), min(xs), max(xs)))
    return [(left, right) for _, left, right in sorted(found)]


def picture(text: str, title: str) -> str:
    return text.partition(f'aria-label="{title}"')[2].partition("</svg>")[0]


def test_the_terminal_has_a_line_and_a_bar_per_run_on_one_scale(
    two_on_h200: list[Result], text_of: Callable[..., str]
) -> None:
    text = text_of(two_on_h200)
    assert f"hf_trainer lora · seed 0, {LINE}" in " ".join(text.split())
    fast, slow = bars(text)
    assert (len(fast), len(slow)) == (round(72 * 504.3 / 537.3), 72)
    assert fast.count("░") / len(fast) == pytest.approx(0.149, abs=0.02)
    first = fast.partition("▓")[0]  # matmul
    assert len(first) / len(fast) == pytest.approx(0.575, abs=0.02)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_bar_fits_into_a_narrow_terminal(two_on_h200: list[Result], text_of: Callable[..., str], width: int) -> None:
    text = text_of(two_on_h200, width=width)
    assert [len(line) for line in bars(text)] == [round(min(width, 72) * 504.3 / 537.3), min(width, 72)]
    assert "profiled steps took 1.11× as long" in " ".join(text.split())


def test_a_word_has_the_colour_of_its_part_of_the_bar(two_on_h200: list[Result]) -> None:
    file = io.StringIO()
    show(two_on_h200[:1], Console(file=file, force_terminal=True, color_system="standard", width=200))
    line, bar = (Text.from_ansi(each) for each in file.getvalue().splitlines() if "matmul 58%" in each or "█" in each)
    words, parts = ([str(span.style) for span in text.spans] for text in (line, bar))
    assert len(set(words)) == 9
    assert parts == [*words[:7], words[8]]  # 1 % of a copy is less than half a column


def test_repeats_are_one_line_of_their_means(repeats_on_a_cpu: list[Result]) -> None:
    found = [explained(each) for each in pool(repeats_on_a_cpu)]
    assert found[0] is not None and found[1] is not None
    assert found[0].time.categories["idle"] == pytest.approx((24 + 25) / 2 / 1250)
    assert sum(found[1].time.categories.values()) == pytest.approx(0.2 + 0.016)
    assert found[0].shares["matmul"] == pytest.approx(0.6, abs=1e-3) and "other" not in found[0].shares


def test_the_mean_waterfall_of_repeats_ends_at_the_mean_of_their_mfu(repeats_on_a_cpu: list[Result]) -> None:
    found = explained(pool(repeats_on_a_cpu)[0])
    ends = [run.explanation.waterfall.mfu_causal for run in repeats_on_a_cpu[:2] if run.explanation]  # type: ignore[union-attr]
    assert found is not None and found.waterfall is not None
    assert found.waterfall.mfu_causal == pytest.approx(sum(ends) / 2)
    assert ends[0] != ends[1]


def test_why_a_run_has_no_waterfall_is_said_beside_that_of_its_repeat(result: Made) -> None:
    without = on_a_cpu(25.0, waterfall=None, no_waterfall="their shapes differ")
    runs = [result(repeat=n, group="sweep", explanation=each) for n, each in enumerate((on_a_cpu(), without))]
    one, none = explained(pool(runs)[0]), explained(pool(runs[1:])[0])
    assert one is not None and one.waterfall is not None
    assert one.about[-1] == "Not every run has a waterfall: their shapes differ."
    assert none is not None and none.waterfall is None
    assert none.about == ["There is no waterfall: their shapes differ."]


def test_single_runs_differ_by_category_under_their_ratio(
    two_on_h200: list[Result], text_of: Callable[..., str]
) -> None:
    ((line,),) = overview(two_on_h200).ratios.values()
    assert line.difference == SLOWER
    assert SLOWER in " ".join(text_of(two_on_h200).split())
    assert SLOWER.partition("vec")[0] in markdown_text(two_on_h200).replace("\\", "")


def test_of_repeats_in_pairs_only_what_they_resolve_is_said(repeats_on_a_cpu: list[Result]) -> None:
    ((line,),) = overview(repeats_on_a_cpu).ratios.values()
    # Idle differs by 15.5 and 16.5 ms: 16 ± 1/2 · t(1; 1 - 0.05/24) = 76.
    found = line.comparison.difference
    assert found is not None and found.basis == line.comparison.ratio.basis == "pairs"
    half = math.tan(math.pi * (0.5 - 0.05 / 24)) / 2 / 1e3  # Student's t with one degree of freedom is Cauchy's
    assert found.categories["idle"].half == pytest.approx(half)
    assert line.difference == (
        "hf_trainer full · seed 2 takes 16 ms more than hf_trainer full · seed 1; no category's difference is resolved."
    )


def test_runs_of_too_few_steps_resolve_no_difference(repeats_on_a_cpu: list[Result]) -> None:
    runs = [replace(run, measurement=replace(run.measurement, relative_half_width=None)) for run in repeats_on_a_cpu]
    found = compare(*pool(runs)).difference
    assert found is not None and found.basis == "single"


def test_one_profile_in_a_setting_makes_its_difference_one_of_single_runs(repeats_on_a_cpu: list[Result]) -> None:
    runs = [*repeats_on_a_cpu[:3], replace(repeats_on_a_cpu[3], explanation=None)]
    compared = compare(*pool(runs))
    assert compared.ratio.basis == "pairs"
    assert compared.difference is not None and compared.difference.basis == "single"
    assert compared.difference.seconds == pytest.approx(
        0.0155 - 0.0005 * 0.8
    )  # less half of what the repeats are apart


def test_nothing_is_said_of_time_without_a_profile(result: Made, text_of: Callable[..., str]) -> None:
    runs = [result("seed=1"), result("seed=2", explanation=on_a_cpu())]
    assert compare(*pool(runs)).difference is None
    assert text_of(runs).count("profiled steps") == 1 and "takes" not in text_of(runs)
    assert "step's time goes" not in text_of(runs[:1])


def test_why_there_is_no_profile_is_one_line(result: Made, text_of: Callable[..., str]) -> None:
    run = result(no_explanation="the framework ended before it")
    said = [line for line in text_of([run]).splitlines() if "profile" in line]
    assert said == ["hf_trainer llama-tiny full: no profile: the framework ended before it"]
    failed = result(no_explanation="the run failed", status="failed", measurement=None, reason="exit status 1")
    assert "no profile" not in text_of([failed])


def test_what_a_profile_could_not_see_is_a_remark(result: Made) -> None:
    seen = overview([result(explanation=on_a_cpu(notes=("captured graphs hide operators",)))])
    assert [remark.text for remark in seen.remarks] == ["profile: captured graphs hide operators"]


def test_markdown_has_a_line_per_run(two_on_h200: list[Result]) -> None:
    assert f"- hf\\_trainer lora · seed 0, {LINE}" in markdown_text(two_on_h200).splitlines()


def test_csv_has_a_column_per_category_and_per_term(result: Made, two_on_h200: list[Result]) -> None:
    runs = [*two_on_h200, result(no_explanation="no steps left")]
    first, _, none = csv.DictReader(io.StringIO(csv_text(run_records(runs))))
    times = {name: float(first[f"time.{name}_ms"]) for name in CATEGORIES}
    assert sum(times.values()) == pytest.approx(H200_STEP_S * 1e3)
    assert (times["elementwise"], times["communication"]) == pytest.approx((71, 0))
    terms = {name: float(cell) for name, cell in first.items() if name.startswith("waterfall.")}
    assert 1 - sum(terms.values()) == pytest.approx(float(first["mfu_causal"]))
    assert terms["waterfall.clock"] < 0 and "waterfall.other_executed_work" in terms
    assert (none["time.idle_ms"], none["no_explanation"]) == ("", "no steps left")


def test_the_waterfall_is_drawn_from_beyond_the_peak_down_to_the_mfu(two_on_h200: list[Result]) -> None:
    text = page(two_on_h200[:1])
    names, values = (words(text, "From the peak down to the MFU", kind) for kind in ("label", "value"))
    assert dict(zip(names, values, strict=True)) == {
        **{"peak": "100.0%", "clock": "+2.0", "normalisation": "−3.6", "elementwise": "−14.4", "rotary": "−1.8"},
        **{"loss": "−2.2", "optimizer": "−0.8", "copy": "−0.6", "idle": "−15.2", "matmul below peak": "−22.4"},
        **{"attention below peak": "−2.7", "HFU causal": "38.2%", "recomputation": "−11.9"},
        **{"other executed work": "−0.3", "MFU causal": "26.0%"},
    }
    drawn = ends(text, "From the peak down to the MFU")
    (zero, peak), clock = drawn[:2]
    scale = peak - zero  # points for 100 %
    assert clock == pytest.approx((peak, peak + 0.0197 * scale), abs=0.05)
    for (left, _), (_, right) in itertools.pairwise(drawn[2:11]):
        assert left == pytest.approx(right, abs=0.05)  # each begins where the one above it ended
    assert [right - zero for _, right in (drawn[11], drawn[-1])] == pytest.approx(
        [0.3822 * scale, 0.2603 * scale], abs=0.05
    )
    said = re.search(r"From the peak down to the MFU</h3>\s*<p>(.*?)</p>", text)
    assert said is not None and said[1].count(". ") == 2 and "Matmuls are 58% of the step" in said[1]


def test_the_page_on_it_has_the_numbers_of_the_example() -> None:
    found = h200_lora().waterfall
    assert found is not None
    terms = {**found.executed, **found.needed}
    rows = re.findall(
        r"^\| ([\w ,*]+) \| ?([+−]?[\d.]*) \| \**([\d.]+)\** \|", (ROOT / "docs" / "why.md").read_text(), re.M
    )
    left = 1.0
    for label, points, said in rows:
        names = label.replace(" below peak", "").split(", ")
        of_row = sum(terms.pop(name) for name in names) if points else 0.0
        left -= of_row
        assert (points.replace("−", "-") or "0", said) == (
            f"{-100 * of_row:+.2f}" if points else "0",
            f"{100 * left:.2f}",
        )
    assert len(rows) == 12 and not terms


def test_bars_by_category_stand_end_to_end_on_one_scale(two_on_h200: list[Result]) -> None:
    text = page(two_on_h200)
    drawn = ends(text, "A step's time by category")
    one, other = drawn[:9], drawn[9:]
    assert all(a[1] == pytest.approx(b[0], abs=0.05) for bars in (one, other) for a, b in itertools.pairwise(bars))
    lengths = [bars[-1][1] - bars[0][0] for bars in (one, other)]
    assert lengths[0] / lengths[1] == pytest.approx(504.3 / 537.3, rel=2e-3)
    idle = one[-1][1] - one[-1][0]
    assert idle / lengths[0] == pytest.approx(75.3 / 504.3, rel=5e-3)


def test_the_page_says_why_there_is_no_waterfall_and_lists_kernels_and_gaps(result: Made) -> None:
    text = html.unescape(page([result(explanation=h200_lora(waterfall=None, no_waterfall="their shapes differ"))]))
    assert "There is no waterfall: their shapes differ." in text
    assert "<td>vectorized_elementwise_kernel<CUDAFunctor_add></td>\n<td>elementwise</td>\n<td>577</td>" in text
    assert "<td>38.000</td>\n<td>7.5%</td>" in text
    assert "<td>4.100</td>\n<td>aten::item</td>" in text


def test_a_page_without_a_profile_has_neither_picture(result: Made) -> None:
    text = page([result()])
    assert "time by category" not in text and "down to the MFU" not in text


def test_an_explanation_is_read_as_it_was_written(tmp_path: Path, result: Made) -> None:
    run = result(explanation=h200_lora(notes=("a",)))
    assert read_result(write_result(run, tmp_path)).explanation == run.explanation
