"""The HTML page as a file: what is in it, and that nothing in a result is more than text."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest
from html_results import FRAMEWORKS, HOSTILE, Lab, forty, over_batch_size, spoilt

from mfubench.config import Experiment
from mfubench.report.html import page
from mfubench.report.html.bars import Bar, Group
from mfubench.report.html.bars import bars as drawn_bars
from mfubench.report.html.details import details
from mfubench.report.html.drawing import SERIES, style
from mfubench.report.html.lines import BOTTOM, HEIGHT, POINTS, Line, Series, panel, thinned, throughput
from mfubench.report.html.repeating import command
from mfubench.report.html.units import axis, flops_per_second, percent, seconds, with_interval
from mfubench.report.overview import Section
from mfubench.result import Result


@pytest.fixture(scope="module")
def lab(compose: Callable[..., Experiment]) -> Lab:
    return Lab(compose("model=llama-3.1-8b", "parallelism=zero2", "parallelism.num_devices=4", "sequence_length=2048"))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and all of its text by the innermost element's class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of_class(self, name: str) -> list[tuple[str, dict[str, str]]]:
        return [(tag, attributes) for tag, attributes in self.found if name in attributes.get("class", "").split()]


def bars(text: str, title: str) -> Iterator[tuple[float, float]]:
    """Left and right end of each bar of a picture."""
    picture = text.partition(f'aria-label="{title}"')[2].partition("</svg>")[0]
    for path in re.findall(r'<g class="bar"><path d="([^"]*)"', picture):
        xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)]
        yield min(xs), max(xs)


def test_every_value_is_text_whatever_it_holds(lab: Lab) -> None:
    runs = [lab.ok("trl", "full", 0.5), lab.ok("axolotl", "full", 0.5, repeat=1), *over_batch_size(lab, "trl")]
    runs = [replace(run, warnings=[{"kind": "imprecise", "text": "why"}]) for run in runs]
    runs[1].settings["framework"]["native"] = {"optim": "sgd"}
    clean = Elements(page(runs))
    text = page([spoilt(run) for run in runs], [HOSTILE], [Section(HOSTILE, [HOSTILE], [HOSTILE], [[HOSTILE]])])
    dirty = Elements(text)
    assert {tag for tag, _ in dirty.found} <= {tag for tag, _ in clean.found} | {"table", "td", "p"}
    assert "script" not in {tag for tag, _ in dirty.found} and "img" not in {tag for tag, _ in dirty.found}
    assert {name for _, attributes in dirty.found for name in attributes} == {
        name for _, attributes in clean.found for name in attributes
    }
    seen = "".join(dirty.texts)
    assert seen.count("<script>window.hacked = 1</script>") > 200
    labels = text.partition('aria-label="Peak memory"')[2].partition("</svg>")[0]
    assert "&lt;/svg&gt;&lt;/style&gt;" in labels and "<script" not in labels
    assert text.encode()  # no half of a pair is left


def test_the_page_needs_nothing_but_itself(lab: Lab) -> None:
    elements = Elements(page(forty(lab))).found
    links = [
        attributes[name] for _, attributes in elements for name in ("href", "src", "xlink:href") if name in attributes
    ]
    assert {link[:1] for link in links} == {"#", "d"} and [link for link in links if link[0] == "d"] == ["data:,"]
    ids = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert set(ids.values()) == {1}
    assert {link[1:] for link in links if link[0] == "#"} <= set(ids)
    clips = {attributes["clip-path"] for _, attributes in elements if "clip-path" in attributes}
    assert {clip.removeprefix("url(#").removesuffix(")") for clip in clips} <= set(ids)
    policy = next(a["content"] for t, a in elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script" not in policy


def test_forty_runs_are_small_enough_to_mail_and_the_same_each_time(lab: Lab) -> None:
    runs = forty(lab)
    text = page(runs)
    assert len(runs) == 40 and len(text.encode()) < 1_000_000
    assert page(runs) == text


def test_bars_are_as_long_as_their_figures(lab: Lab) -> None:
    runs = [lab.ok("trl", "full", 0.5), lab.ok("trl", "full", 1.0, seed=1)]
    drawn = list(bars(page(runs), "How much of the peak is used"))
    figures = [run.measurement[name] for run in runs if run.measurement for name in ("mfu", "hfu")]
    assert [left for left, _ in drawn] == [0] * 4
    assert [right / drawn[0][1] for _, right in drawn] == pytest.approx([f / figures[0] for f in figures], rel=2e-3)


def test_the_parts_of_a_step_stand_end_to_end(lab: Lab) -> None:
    forward, rest, _ = bars(page([lab.ok("trl", "full", 0.5)]), "Where a step's time goes")
    assert forward[1] == rest[0]
    assert forward[1] / rest[1] == pytest.approx(0.86, abs=2e-3)


def test_the_shade_ends_with_the_warm_up(lab: Lab) -> None:
    text = page([lab.ok("trl", "full", 0.5, steps=40)])
    left, right = (float(x) for x in re.search(r'class="warmup"><path d="M ([\d.]+) [\d.]+ L ([\d.]+)', text).groups())  # type: ignore[union-attr]
    first, last = 52, 256  # pixels of steps 1 and 45
    assert (left, right) == (first, pytest.approx(first + (last - first) * (5.5 - 1) / (45 - 1), abs=0.1))


def test_batch_sizes_that_did_not_fit_are_marked(lab: Lab) -> None:
    runs = [lab.ok("trl", "full", 0.5), *over_batch_size(lab, "trl")]
    text = page(runs)
    picture = text.partition('aria-label="Throughput over batch size"')[2].partition("</svg>")[0]
    assert picture.count('class="absent"') == 2 and picture.count('class="interval"') == 3
    assert re.findall(r">(\d+)</text>", picture.replace(">0</text>", "")) == ["1", "2", "4", "8", "16"]
    assert "</span> tokens per second and device</li>" in text  # one line needs no name
    assert "did not run to its end: out of memory" in text
    assert "Throughput over batch size" not in page([lab.ok("trl", "full", 0.5), lab.ok("trl", "lora", 0.5)])


def test_more_lines_than_colours_are_several_pictures(lab: Lab) -> None:
    runs = [run for framework in list(FRAMEWORKS)[:7] for run in over_batch_size(lab, framework)]
    assert page(runs).count('aria-label="Throughput over batch size"') == 2


def test_the_fastest_is_marked_only_where_that_is_resolved(lab: Lab) -> None:
    def runs(repeats: int) -> list[Result]:
        return [
            lab.ok(name, "full", s, repeat=i) for i in range(repeats) for name, s in (("trl", 0.5), ("axolotl", 0.6))
        ]

    assert len(Elements(page(runs(4))).of_class("badge")) == 1
    assert len(Elements(page(runs(1))).of_class("badge")) == 0


def test_a_run_that_failed_shows_why_and_no_picture(lab: Lab) -> None:
    text = page([lab.failed("out_of_memory", "trl", "full")])
    assert "<figure>" not in text and "CUDA out of memory. Tried to allocate" in text
    assert "trl: step 4" in text  # its log


def test_what_all_runs_share_is_said_once(lab: Lab) -> None:
    text = page([lab.ok("trl", "full", 0.5), lab.ok("axolotl", "full", 0.5), lab.failed("failed", "litgpt", "full")])
    assert text.count("GPU-0; GPU-1; GPU-2; GPU-3") == 1
    assert text.count("<dt>0: power_w_mean</dt>") == text.count("<dt>1: power_w_mean</dt>") == 1


def test_notes_and_sections_stand_in_the_page(lab: Lab) -> None:
    section = Section("Published", ["It is HFU."], ["run", "MFU"], [["LoRA", "52.7%"]])
    text = "".join(Elements(page([lab.ok("trl", "full", 0.5)], ["x/result.json can't be read"], [section])).texts)
    assert all(words in text for words in ("x/result.json can't be read", "Published", "It is HFU.", "52.7%"))


def test_a_long_series_keeps_its_extremes() -> None:
    times = [1 + 0.1 * math.sin(step) for step in range(5000)]
    times[1234], times[4321] = 9.0, 0.1
    steps, kept = thinned(times)
    assert len(steps) <= POINTS and steps == sorted(steps)
    assert (max(kept), steps[kept.index(9.0)], min(kept)) == (9.0, 1235, 0.1)
    assert thinned(times[:50]) == ([float(step) for step in range(1, 51)], times[:50])


def test_numbers_are_put_into_words_with_their_units() -> None:
    assert [seconds(s) for s in (1.4812, 0.4124, 8.51e-5)] == ["1.48 s", "412 ms", "85.1 µs"]
    assert [flops_per_second(f) for f in (392.4e12, 1.25e15, 3.3e11)] == ["392 TFLOP/s", "1.25 PFLOP/s", "330 GFLOP/s"]
    assert [percent(0.421), percent(0.00512)] == ["42.1 %", "0.512 %"]
    assert [with_interval(0.37562, half) for half in (0.012, 0.0005, 0)] == [
        "37.6 ± 1.2 %",
        "37.56 ± 0.05 %",
        "37.562 ± 0.000 %",
    ]
    assert axis([0, 0.5, 1, 1.5], seconds) == ["0", "500 ms", "1", "1.5 s"]


def test_the_shade_ends_where_the_first_repeat_is_steady() -> None:
    runs = [Series([9.0] * 3 + [1.0, 1.1] * 5, 3), Series([9.0] * 6 + [1.0, 1.1] * 4, 6)]
    with style():
        drawn = str(panel(runs, "name", "description"))
    # From 52 to 256 pixels are 14 steps; the shade goes to the middle between the third and the fourth.
    assert f'class="warmup"><path d="M 52 8 L {52 + 204 * 2.5 / 13:.1f} 8 ' in drawn


def test_an_interval_that_reaches_below_zero_is_drawn_from_zero() -> None:
    with style():
        of_bars = str(drawn_bars([Group("a", [Bar([(1.0, SERIES[0])], "1", (-0.5, 2.0))])], "name", "description", str))
        of_points = str(throughput([Line("a", {1: (10.0, -5.0, 25.0)}, {})], "name", "description"))
    assert re.search(r'class="interval"><path d="M 0 ', of_bars)
    assert re.search(rf'class="interval"><path d="M \S+ {HEIGHT - BOTTOM} ', of_points)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "framework=trl",
            "mode=lora",
            "mode.rank=64",
            "mode.target_modules=[q_proj,v_proj]",
            "batch_size=7",
            "repeat=3",
        ),
        ("model=qwen3-8b", "model.architecture.num_hidden_layers=2", "+framework.native.optim='a b$c'", "seed=-1"),
        ("+framework.native.a={b: 3, c: {d: [x, 1]}}", "+framework.native.e=null", "+framework.native.f=[{g: 'h i'}]"),
        ("parallelism=zero3", "parallelism.num_devices=8", "gradient_accumulation_steps=4", "measurement=thorough"),
        ("liger_kernel=true", "liger.rope=false", "hardware=h100-sxm", "hardware.peak_flops_per_second=1e15"),
        ("measurement.relative_precision=null", "measurement.seconds=12.5", "data=jsonl", "data.path='/a b/c.jsonl'"),
    ],
)
def test_the_command_that_repeats_a_run_asks_for_the_same(
    compose: Callable[..., Experiment], overrides: tuple[str]
) -> None:
    asked = asdict(compose(*overrides))
    python, dash_m, module, *words = shlex.split(command(asked))
    assert (python, dash_m, module) == ("python", "-m", "mfubench")
    assert asdict(compose(*words)) == asked
    assert len(words) <= len(overrides) + 2


def test_the_command_that_repeats_a_run_says_nothing_of_where_and_how_it_was_started(
    compose: Callable[..., Experiment],
) -> None:
    asked = asdict(compose("resume=true", "dry_run=true", "tracking=none"))
    assert command(asked) == command(asdict(compose()))


def test_meanings_that_differ_between_results_are_all_said(result: Callable[..., Result]) -> None:
    one, other = result(conventions={"mfu": "this", "hfu": "both"}), result(conventions={"mfu": "that", "hfu": "both"})
    found = details([one, other], ["a", "b"]).conventions
    assert found == {"mfu": "this · in other results: that", "hfu": "both"}
