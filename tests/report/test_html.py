"""The HTML page as a file: what is in it, and that nothing in a result is more than text."""

from __future__ import annotations

import html
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from html_results import FRAMEWORKS, HOSTILE, Lab, forty, over_batch_size, spoilt

from mfubench.config import Experiment
from mfubench.measure.figures import RunWarning
from mfubench.report.html import page
from mfubench.report.html.details import details
from mfubench.report.section import Section
from mfubench.result import Result


@pytest.fixture(scope="module")
def lab(compose: Callable[..., Experiment]) -> Lab:
    return Lab(compose("model=llama-3.1-8b", "parallelism=zero2", "parallelism.num_devices=4", "sequence_length=2048"))


NAME = "trl llama-3.1-8b full"  # of a single setting


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


def picture(text: str, title: str) -> str:
    """The first picture of that title."""
    return text.partition(f'aria-label="{title}"')[2].partition("</svg>")[0]


def drawn(text: str, title: str, kind: str) -> list[list[tuple[float, float]]]:
    """The corners of each path of a kind in a picture, in the order in which they are drawn."""
    groups = re.findall(rf'<g class="{kind}">(.*?)</g>', picture(text, title), re.DOTALL)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path)]
        for group in groups
        for path in re.findall(r'<path d="([^"]*)"', group)
    ]


def bars(text: str, title: str) -> list[tuple[float, float]]:
    """Left and right end of each bar of a picture, line by line."""
    corners = sorted(drawn(text, title, "bar"), key=lambda found: (min(y for _, y in found), min(x for x, _ in found)))
    return [(min(x for x, _ in found), max(x for x, _ in found)) for found in corners]


def texts(text: str, title: str) -> list[str]:
    """The words in a picture, line by line."""
    return [html.unescape(found) for found in re.findall(r">([^<]*)</text>", picture(text, title))]


def test_every_value_is_text_whatever_it_holds(lab: Lab) -> None:
    runs = [lab.ok("trl", "full", 0.5), lab.ok("axolotl", "full", 0.5, repeat=1), *over_batch_size(lab, "trl")]
    runs = [replace(run, warnings=(RunWarning("imprecise", "why"),)) for run in runs]
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
    found = bars(page(runs), "How much of the peak is used")
    figures = [getattr(run.measurement, name) for run in runs if run.measurement for name in ("mfu", "hfu")]
    assert len({left for left, _ in found}) == 1
    lengths = [right - left for left, right in found]
    assert [length / lengths[0] for length in lengths] == pytest.approx([f / figures[0] for f in figures], rel=2e-3)


def test_the_parts_of_a_step_stand_end_to_end(lab: Lab) -> None:
    forward, rest, _ = bars(page([lab.ok("trl", "full", 0.5)]), "Where a step's time goes")
    assert forward[1] == rest[0]
    assert (forward[1] - forward[0]) / (rest[1] - forward[0]) == pytest.approx(0.86, abs=2e-3)


def test_the_shade_ends_with_the_warm_up(lab: Lab) -> None:
    run = lab.ok("trl", "full", 0.5, steps=40)
    first, last = 60, 248  # points of steps 1 and 45
    (shade,) = drawn(page([run]), f"step times of {NAME}", "warmup")
    assert min(x for x, _ in shade) == first
    assert max(x for x, _ in shade) == pytest.approx(first + (last - first) * (5.5 - 1) / (45 - 1), abs=0.1)


def test_batch_sizes_that_did_not_fit_are_marked(lab: Lab) -> None:
    title = "Throughput over batch size"
    text = page([lab.ok("trl", "full", 0.5), *over_batch_size(lab, "trl")])
    (absent,) = re.findall(r'<g class="absent">(.*?)</g>\s*</g>', picture(text, title), re.DOTALL)
    assert absent.count("<use") == 2 and len(drawn(text, title, "interval")) == 3
    words = texts(text, title)
    assert [word for word in words if word.isdecimal() and word != "0"] == ["1", "2", "4", "8", "16"]
    assert "tokens per second and device" in words  # one line needs no name
    assert "did not run to its end: out of memory" in words
    assert title not in page([lab.ok("trl", "full", 0.5), lab.ok("trl", "lora", 0.5)])


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


def test_a_long_series_keeps_its_extremes(lab: Lab) -> None:
    run = lab.ok("trl", "full", 0.5, steps=5000)
    times = [1 + 0.1 * math.sin(step) for step in range(5005)]
    times[1234], times[4321] = 1.9, 0.2
    history = [{**row, "step_time_s": time} for row, time in zip(run.history, times, strict=True)]
    (line,) = drawn(page([replace(run, history=history)]), f"step times of {NAME}", "series")
    first, last = 60, 248  # points of the first step and the last
    assert len(line) < 1000  # nobody could see more
    (highest, _), (lowest, _) = min(line, key=lambda point: point[1]), max(line, key=lambda point: point[1])
    assert highest == pytest.approx(first + (last - first) * 1234 / 5004, abs=1)
    assert lowest == pytest.approx(first + (last - first) * 4321 / 5004, abs=1)


def test_numbers_in_plots_are_written_as_in_the_table(lab: Lab) -> None:
    run = lab.ok("trl", "full", 0.5, noise=0)
    assert run.measurement is not None
    measurement = replace(
        run.measurement,
        mfu=0.4214,
        hfu=0.5266,
        peak_memory_bytes=round(40.25 * 2**30),
        ci95={**run.measurement.ci95, "mfu": (0.4094, 0.4334), "hfu": (0.5264, 0.5268)},
        forward_to_optimizer_s=0.41241,
        optimizer_to_forward_s=1.48124,
        data_wait_s=0.01,
    )
    text = page([replace(run, measurement=measurement)])
    used = texts(text, "How much of the peak is used")
    assert used[:3] == ["20%", "40%", "60%"] and {"MFU 42.1 ±1.2%", "HFU 52.7 ±0.1%"} <= {*used}
    assert {"1 s", "412.4 ms + 1.481 s", "0.5% waiting for data"} <= {*texts(text, "Where a step's time goes")}
    assert {"20 GiB", "40.25 GiB"} <= {*texts(text, "Peak memory")}
    assert "500 TFLOP/s" in texts(text, "FLOP/s achieved, and the peak")


def test_long_names_are_broken_into_lines_and_never_cut(lab: Lab) -> None:
    runs = [lab.ok("trl", "full", 0.5), lab.ok("trl", "full", 0.5)]
    ends = ["paged_adamw_8bit", "paged_adamw_32bit"]
    for run, end in zip(runs, ends, strict=True):
        run.settings["framework"]["native"] = {
            "optimizer_by_a_long_name": f"one of many that begin like this one, {end}"
        }
    text = page(runs)
    for title in ("How much of the peak is used", "Peak memory", "Where a step's time goes"):
        assert [end for end in ends if any(end in line for line in texts(text, title))] == ends
    assert "…" not in text


def test_the_shade_ends_where_the_first_repeat_is_steady(lab: Lab) -> None:
    early, late = lab.ok("trl", "full", 0.5), lab.ok("trl", "full", 0.5, repeat=1)
    assert early.measurement is not None
    early = replace(early, measurement=replace(early.measurement, warmup_steps=3))
    (shade,) = drawn(page([early, late]), f"step times of {NAME}", "warmup")
    assert max(x for x, _ in shade) == pytest.approx(60 + (248 - 60) * (3.5 - 1) / (45 - 1), abs=0.1)


def test_an_interval_that_reaches_below_zero_is_drawn_from_zero(lab: Lab) -> None:
    run, other = lab.ok("trl", "full", 0.5), lab.ok("trl", "full", 0.5, batch_size=4)
    assert run.measurement is not None
    rate = run.measurement.tokens_per_second_per_device
    wide = {"mfu": [-0.5, 2.0], "tokens_per_second_per_device": [-rate, 3 * rate]}
    text = page([replace(run, measurement=replace(run.measurement, ci95={**run.measurement.ci95, **wide})), other])
    used, over_batch = "How much of the peak is used", "Throughput over batch size"
    assert min(x for x, _ in drawn(text, used, "interval")[0]) == bars(text, used)[0][0]
    zero = re.search(r' y="([\d.]+)"[^>]*>0</text>', picture(text, over_batch))
    assert zero is not None
    lowest = max(y for _, y in drawn(text, over_batch, "interval")[0])
    assert lowest == pytest.approx(float(zero[1]), abs=6)  # the middle of a letter over its foot


def test_the_command_that_repeats_a_run_is_in_the_users_words_less_where_and_how_it_was_started(
    result: Callable[..., Result],
) -> None:
    overrides = ("mode=lora", "+framework.native.optim='a b'", "hydra.run.dir=/tmp/x", "resume=true", "tracking=none")
    (run,) = details([result(provenance={"overrides": overrides})], ["a"]).runs
    assert run.command == """python -m mfubench mode=lora '+framework.native.optim='"'"'a b'"'"''"""
    assert shlex.split(run.command)[3:] == list(overrides[:2])
    (older,) = details([result(provenance={"overrides": None})], ["a"]).runs
    assert older.command == ""
    assert "To repeat it" not in page([result(provenance={"overrides": None})])


def test_meanings_that_differ_between_results_are_all_said(result: Callable[..., Result]) -> None:
    one, other = result(conventions={"mfu": "this", "hfu": "both"}), result(conventions={"mfu": "that", "hfu": "both"})
    found = details([one, other], ["a", "b"]).conventions
    assert found == {"mfu": "this · in other results: that", "hfu": "both"}
