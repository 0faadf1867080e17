"""What other programs read: CSV, JSON, Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

from mfubench.report import to_csv, to_json, to_markdown
from mfubench.report.section import Section
from mfubench.result import Result
from mfubench.result.flat import run_records

Made = Callable[..., Result]
Repeats = Callable[..., list[Result]]


def failed(result: Made, **changes: object) -> Result:
    return result(status="failed", reason="exit status 1", measurement=None, work=None, hardware=None, **changes)


def test_every_run_is_one_record_with_the_same_columns(result: Made, repeats: Repeats) -> None:
    runs = [*repeats(seconds=[0.2, 0.3]), failed(result)]
    found = run_records(runs)
    assert len(found) == 3 and found[0].keys() == found[1].keys() == found[2].keys()
    assert [record["repeat"] for record in found] == [0, 1, 0]
    assert [record["step_time_s"] for record in found] == [0.2, 0.3, None]
    assert (found[0]["step_time_s_ci95_low"], found[0]["step_time_s_ci95_high"]) == (0.198, 0.202)
    assert (found[0]["batch_size"], found[0]["mode.name"], found[0]["hardware.device_name"]) == (2, "full", "A chip")
    assert (found[2]["status"], found[2]["reason"], found[2]["mfu"]) == ("failed", "exit status 1", None)


def test_what_says_nothing_of_a_measurement_is_no_column(result: Made) -> None:
    (found,) = run_records([result("resume=true")])
    assert not {"resume", "dry_run"} & found.keys() and not any(key.startswith("tracking") for key in found)


def test_a_native_key_is_a_column_and_the_recipe_of_a_framework_is_none(result: Made) -> None:
    (found,) = run_records([result("+framework.native.optim=adafactor")])
    assert found["framework.native.optim"] == "adafactor"
    assert not any(column.startswith(("framework.base", "framework.when", "tracking")) for column in found)


def test_json_is_a_list_of_the_records(result: Made) -> None:
    runs = [result(warnings=[{"kind": "imprecise", "text": "a"}, {"kind": "imprecise", "text": "b"}]), failed(result)]
    assert json.loads(to_json.json_text(run_records(runs))) == run_records(runs)
    assert [record["warnings"] for record in run_records(runs)] == ["imprecise", None]


def test_csv_has_a_header_and_a_line_per_run_whatever_a_reason_holds(result: Made) -> None:
    runs = [result(), failed(result, name='a, "b"'), result(status="failed", reason="two\nlines", measurement=None)]
    rows = list(csv.DictReader(io.StringIO(to_csv.csv_text(run_records(runs)))))
    assert [row["name"] for row in rows] == ["a-run", 'a, "b"', "a-run"]
    assert [row["reason"] for row in rows] == ["", "exit status 1", "two\nlines"]
    assert [row["step_time_s"] for row in rows] == ["0.2", "", ""]
    assert float(rows[0]["mfu_ci95_high"]) == 0.42


def test_no_cell_of_a_csv_is_a_formula(result: Made) -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv.csv_text(run_records([result(name='=HYPERLINK("x")', seconds=0.25)]))))
    assert row["name"] == '\'=HYPERLINK("x")' and row["step_time_s"] == "0.25"


def test_markdown_shows_what_the_terminal_shows(repeats: Repeats) -> None:
    runs = repeats("batch_size=1", "seed=1", seconds=[0.2, 0.201]) + repeats(
        "batch_size=1", "seed=2", seconds=[0.4, 0.402]
    )
    text = to_markdown.markdown_text(runs, [Section("A title", ["Said."], ["a", "b"], [["1", "2"]])])
    lines = text.splitlines()
    assert lines[4].startswith("| setting | status | n | step time | tokens/s/device | MFU | HFU | memory |")
    assert lines[5].startswith("| --- | --- | ---: | ---: |")
    assert lines[6].startswith("| hf\\_trainer full · seed 1 | ok, fastest | 2 | 200.5 ms ±")
    assert "- time per step, relative to hf\\_trainer full · seed 1\n  - hf\\_trainer full · seed 2: 2.000" in text
    assert lines[-7:] == ["### A title", "", "Said.", "", "| a | b |", "| --- | --- |", "| 1 | 2 |"]
    assert all(len(line.split(" | ")) == len(lines[4].split(" | ")) for line in lines[6:8])


def test_nothing_in_a_markdown_cell_is_markup(result: Made) -> None:
    hostile = "a|b <img src=x> [c](d) @team *e* `f`\n# g"
    text = to_markdown.markdown_text([result("seed=1"), failed(result, framework=hostile)])
    assert r"a\|b \<img src=x\> \[c\](d) \@team \*e\* \`f\` \# g" in text
    assert not any(line.startswith("# g") for line in text.splitlines())
