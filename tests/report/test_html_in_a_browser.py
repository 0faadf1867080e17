"""The HTML page as a person sees it: in a real browser, wide and narrow, light and dark, on paper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from html_results import FRAMEWORKS, Lab, over_batch_size, spoilt
from made_results import h200_lora, h200_slower

from mfubench.config import Experiment
from mfubench.measure.figures import RunWarning
from mfubench.report.html import page
from mfubench.result import Result

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)
# Boxes of text in pictures that lie over each other or leave their picture, in words.
CROWDED = """() => [...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).flatMap(svg => {
  const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')]
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()])
  const out = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1 || b.bottom > frame.bottom + 1)
  const over = boxes.flatMap(([word, a], i) => boxes.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 5
  ).map(([other]) => word + ' over ' + other))
  return [...out.map(([word]) => word + ' leaves ' + svg.ariaLabel), ...over]
})"""
# WCAG's contrast of each colour against the cards.
CONTRASTS = """names => {
  const probe = document.createElement('i')
  document.body.append(probe)
  const light = name => {
    probe.style.color = `var(--${name})`
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
    const [r, g, b] = getComputedStyle(probe).color.match(/[0-9.]+/g).map(c => linear(c / 255))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
  }
  return names.map(name => [light(name), light('card')].sort((a, b) => b - a)).map(([a, b]) => a / b)
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        here = {**os.environ, "TMPDIR": "/tmp"}  # a socket's path has at most 108 characters
        running = started.chromium.launch(executable_path=CHROMIUM, args=QUIET, env=here)
        yield running
        running.close()


@pytest.fixture(scope="module")
def results(compose: Callable[..., Experiment]) -> list[Result]:
    """Several frameworks in both modes, batch sizes of which some don't fit, repeats, a failure."""
    lab = Lab(compose("model=llama-3.1-8b", "parallelism=zero2", "parallelism.num_devices=4", "sequence_length=2048"))
    runs = [
        lab.ok(framework, mode, FRAMEWORKS[framework][place], repeat=repeat)
        for repeat in range(3)
        for framework in ("axolotl", "llama_factory")
        for place, mode in enumerate(("full", "lora"))
    ]
    for number, explanation in enumerate((h200_lora(), h200_lora(waterfall=None, no_waterfall="their shapes differ"))):
        runs[number] = replace(runs[number], explanation=explanation)
    runs[2] = replace(runs[2], explanation=h200_slower())
    runs += [*over_batch_size(lab, "axolotl"), lab.failed("not_installed", "llmforge", "lora")]
    return [*runs[:-1], replace(runs[-1], warnings=(RunWarning("imprecise", "known to ±12% only"),))]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page of results; at the end nothing may have been said on the console, and no other file asked for."""
    said: list[str] = []
    asked: set[str] = set()
    contexts = []

    def open_page(results: list[Result], width: int = 1280, **looks: Any) -> Page:
        file = tmp_path / "report.html"
        file.write_text(page(results), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **looks))
        shown = contexts[-1].new_page()
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: said.append(dialog.message))
        shown.on("request", lambda request: asked.add(request.url))
        shown.goto(file.as_uri())
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if url != "data:,"} == {(tmp_path / "report.html").as_uri()}


def seen(shown: Page, title: str, kind: str) -> list[Any]:
    """The visible parts of a kind in a picture."""
    found = shown.get_by_role("img", name=title, exact=True).locator(f".{kind}").all()
    return [each for each in found if each.is_visible()]


def test_a_person_sees_a_bar_for_each_figure_and_its_label(opened: Callable[..., Page], results: list[Result]) -> None:
    shown = opened(results)
    title = "How much of the peak is used"
    names = [each.text_content() for each in seen(shown, title, "label")]
    assert len(names) == 9 and names[:2] == ["axolotl full · batch 2", "axolotl lora · batch 2"]
    assert "axolotl full · batch 16" in names and "llmforge lora · batch 2" in names
    assert len(seen(shown, title, "bar")) == 2 * 6  # MFU and HFU of what ran
    assert [each.text_content() for each in seen(shown, title, "absent")] == [
        "out of memory",
        "out of memory",
        "not installed",
    ]
    boxes = sorted((each.bounding_box() for each in seen(shown, title, "bar")), key=lambda box: box["y"])
    assert all(box["width"] > 50 and 8 < box["height"] < 30 for box in boxes)
    assert boxes[0]["x"] == boxes[1]["x"] and boxes[0]["width"] < boxes[1]["width"]  # MFU is less than HFU
    measured = [run.measurement.mfu for run in results[:9:4] if run.measurement]  # the repeats of the first row
    mean = f"{100 * sum(measured) / 3:.1f}"
    assert str(seen(shown, title, "value")[0].text_content()).startswith(f"MFU {mean}")
    assert shown.locator(".badge").count() == 2


def test_a_person_sees_where_the_time_of_a_step_goes(opened: Callable[..., Page], two_on_h200: list[Result]) -> None:
    shown = opened(two_on_h200)
    times, title = "A step's time by category", "From the peak down to the MFU: hf_trainer lora · seed 0"
    boxes = [each.bounding_box() for each in seen(shown, times, "bar")]
    rows = {round(box["y"] / 10) for box in boxes}
    assert len(boxes) == 2 * 9 and len(rows) == 2 and all(box["width"] > 0.5 for box in boxes)
    fills = shown.get_by_role("img", name=times).locator(".bar path").all()
    looks = [each.evaluate("bar => getComputedStyle(bar).fill") for each in fills]
    assert len(set(looks)) == 9 and all(look != "none" for look in looks)
    said = [each.text_content() for each in seen(shown, title, "label")]
    assert said[:2] == ["peak", "clock"] and said[-1] == "MFU causal"
    assert seen(shown, title, "value")[-1].text_content() == "26.0%"
    kernel = shown.get_by_text("nvjet_tst_128x256", exact=True).first
    assert not kernel.is_visible()
    shown.locator("details.run summary").first.click()
    shown.get_by_text("Its kernels or operators").first.click()
    assert kernel.is_visible()


def test_the_table_shows_what_the_terminal_shows(opened: Callable[..., Page], results: list[Result]) -> None:
    shown = opened(results)
    rows = shown.locator("table.results tbody tr").all_inner_texts()
    assert len(rows) == 9
    assert sum("out of memory" in row for row in rows) == 2 and sum("%" in row for row in rows) == 6
    assert shown.get_by_text("(3 pairs").count() == 2


@pytest.mark.parametrize(("width", "rows"), [(1300, 10), (390, 3)])
def test_the_figures_are_in_sight_without_scrolling(
    opened: Callable[..., Page], results: list[Result], width: int, rows: int
) -> None:
    runs = [
        replace(run, group=None, settings={**run.settings, "seed": seed}) for seed, run in enumerate(results[:rows])
    ]
    shown = opened(runs, width)
    assert shown.locator("table.results tbody tr").count() == rows
    box = shown.locator(".box").first.bounding_box()
    for number, heading in enumerate(("setting", "status", "step time", "tokens/s per device", "MFU", "HFU")):
        cell = shown.locator("table.results thead th").nth(number)
        assert " ".join(str(cell.text_content()).split()) == heading
        place = cell.bounding_box()
        assert box is not None and place is not None and place["x"] + place["width"] <= box["x"] + box["width"]
    below = shown.locator("table.results tbody tr").last.bounding_box()
    assert below is not None and below["y"] + below["height"] < 900


@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_is_wider_than_the_window(opened: Callable[..., Page], results: list[Result], width: int) -> None:
    shown = opened(results, width)
    shown.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown.evaluate(CROWDED) == []


def test_the_words_in_a_picture_can_be_read_on_a_phone(opened: Callable[..., Page], results: list[Result]) -> None:
    shown = opened(results, 375)
    heights = shown.evaluate("[...document.querySelectorAll('#plots text')].map(t => t.getBoundingClientRect().height)")
    assert min(heights) > 10  # pixels of a line


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_in_light_and_in_dark(
    opened: Callable[..., Page], results: list[Result], scheme: str
) -> None:
    shown = opened(results, color_scheme=scheme)
    assert min(shown.evaluate(CONTRASTS, ["ink", "quiet", "bad", "warning", "good", "link"])) >= 4.5  # WCAG AA for text
    assert min(shown.evaluate(CONTRASTS, [f"series-{number}" for number in range(1, 7)])) >= 3  # and for pictures


def test_dark_is_another_page_and_paper_is_always_light(opened: Callable[..., Page], results: list[Result]) -> None:
    def colours(shown: Page) -> tuple[str, str, str]:
        bar = "getComputedStyle(document.querySelector('.bar path')).fill"
        text = "getComputedStyle(document.querySelector('svg text')).fill"
        return tuple(shown.evaluate(each) for each in ("getComputedStyle(document.body).backgroundColor", bar, text))

    light, dark = opened(results, color_scheme="light"), opened(results, color_scheme="dark")
    assert all(a != b for a, b in zip(colours(light), colours(dark), strict=True))
    dark.emulate_media(media="print")
    assert colours(dark)[0] == "rgb(255, 255, 255)"


def test_the_words_in_a_picture_have_the_font_of_the_page(opened: Callable[..., Page], results: list[Result]) -> None:
    fonts = """[...document.querySelectorAll('body, svg text')].map(each => getComputedStyle(each).fontFamily)"""
    assert len(set(opened(results).evaluate(fonts))) == 1


def test_it_fits_on_paper(opened: Callable[..., Page], results: list[Result]) -> None:
    shown = opened(results, 700)  # A4 within its margins
    shown.emulate_media(media="print")
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown.evaluate(CROWDED) == []
    assert shown.pdf(format="A4").startswith(b"%PDF")


def test_hostile_strings_do_nothing(opened: Callable[..., Page], results: list[Result]) -> None:
    shown = opened([spoilt(result) for result in results], 375)
    shown.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    assert shown.evaluate(
        "window.hacked === undefined && document.scripts.length === 0 && document.images.length === 0"
    )
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown.locator("svg").count() == opened(results).locator("svg").count()
    assert "</svg></style>" in str(seen(shown, "Peak memory", "label")[0].text_content())
