"""The schema of result.json, and results of earlier ones. Run as a program, it writes docs/result.schema.json anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mfubench.files.paths import ROOT
from mfubench.report.__main__ import main
from mfubench.result import SCHEMA_VERSION, read_result, write_result
from mfubench.result.result_file import adapter

SCHEMA = ROOT / "docs" / "result.schema.json"
OLD = {schema: ROOT / "tests" / "data" / f"result-schema-{schema}.json" for schema in (3, 4, 5)}  # of real runs


def schema_text() -> str:
    """The schema as pydantic makes it of the dataclasses, less titles, which repeat the names."""

    def untitled(tree: Any) -> Any:
        if isinstance(tree, list):
            return [untitled(each) for each in tree]
        if not isinstance(tree, dict):
            return tree
        return {key: untitled(value) for key, value in tree.items() if key != "title" or isinstance(value, dict)}

    return json.dumps(untitled(adapter().json_schema()), indent=1) + "\n"


def test_the_schema_in_docs_is_that_of_the_results() -> None:
    assert SCHEMA.read_text() == schema_text(), "python tests/result/test_schema.py writes it anew"


def test_a_result_of_schema_3_is_read_with_every_figure(tmp_path: Path) -> None:
    said, result = json.loads(OLD[3].read_text()), read_result(OLD[3])
    assert result.measurement is not None and result.flops is not None and result.hardware is not None
    assert result.measurement.mfu == said["measurement"]["mfu"]
    assert result.measurement.ci95["hfu"] == tuple(said["measurement"]["ci95"]["hfu"])
    assert result.flops.hardware_flops == said["flops"]["hardware_flops"]
    assert result.in_situ is not None and result.in_situ.flops == said["flops"]["in_situ"]["flops"]
    assert result.second_count is not None and result.second_count.apart == said["flops"]["second_count"]["apart"]
    assert result.hardware.peak_flops_per_second == said["hardware"]["peak_flops_per_second"]
    assert result.provenance.overrides is None
    again = write_result(result, tmp_path)  # in today's schema
    assert json.loads(again.read_text())["schema_version"] == SCHEMA_VERSION and read_result(again) == result


def test_a_result_of_schema_5_has_no_explanation_and_nobody_asked_for_one() -> None:
    said, result = json.loads(OLD[5].read_text()), read_result(OLD[5])
    assert result.measurement is not None and result.measurement.mfu == said["measurement"]["mfu"]
    assert said["schema_version"] == 5 and "explanation" not in said
    assert (result.explanation, result.no_explanation) == (None, None)


@pytest.mark.parametrize("schema", OLD)
@pytest.mark.parametrize("form", ["table", "csv", "json", "markdown", "html"])
def test_a_result_of_an_earlier_schema_is_in_every_report(
    form: str, schema: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_bytes(OLD[schema].read_bytes())
    mfu = json.loads(OLD[schema].read_text())["measurement"]["mfu"]
    assert main([str(tmp_path), "--format", form]) == 0
    printed = capsys.readouterr()
    assert (f"{mfu:.1%}" if form in ("table", "markdown", "html") else f"{mfu}") in printed.out and not printed.err


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
