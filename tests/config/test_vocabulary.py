"""The lists of the vocabulary are those of the schema, of conf/ and of what is recorded and reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from mfubench.config import Experiment, vocabulary
from mfubench.files.paths import CONF
from mfubench.records.expected import Expected
from mfubench.report.settings import settings_in_words

OPTIONS_LISTED = {"mode": vocabulary.MODES, "gradient_checkpointing": vocabulary.RECOMPUTATIONS}
OPTIONS_LISTED |= {"parallelism": tuple(vocabulary.PARALLELISMS)}


def test_the_groups_with_options_are_the_folders_of_conf() -> None:
    top = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    chosen = {group for entry in top if isinstance(entry, dict) for group in entry}
    assert set(vocabulary.GROUPS_WITH_OPTIONS) == chosen & vocabulary.GROUPS.keys()
    assert vocabulary.WITHOUT_OPTIONS == ("liger",)
    assert set(vocabulary.FRAMEWORK_GROUPS) < set(vocabulary.GROUPS_WITH_OPTIONS)


@pytest.mark.parametrize("group", OPTIONS_LISTED)
def test_the_options_that_are_listed_are_the_files_of_their_group(group: str) -> None:
    assert set(OPTIONS_LISTED[group]) == {path.stem for path in (CONF / group).glob("*.yaml")}


def test_a_setting_that_is_left_open_is_one_of_the_experiment_with_names_that_records_and_report_have(
    compose: Callable[..., Experiment],
) -> None:
    settings = {field.name for field in fields(Experiment)}
    assert vocabulary.LEFT_OPEN.keys() < settings
    assert set(vocabulary.OUTSIDE_THE_WORK) < settings
    expected = {field.name for field in fields(Expected)}
    reported = settings_in_words(asdict(compose()), "a framework", None)
    for setting in vocabulary.LEFT_OPEN.values():
        assert set(setting.expected) <= expected and setting.reported in reported


@pytest.mark.parametrize("framework", sorted((CONF / "framework").glob("[a-z]*.yaml")), ids=lambda path: path.stem)
def test_an_optimizer_of_a_framework_is_one_that_records_can_compare(framework: Path) -> None:
    branches = yaml.safe_load(framework.read_text())["when"].get("optimizer", {})
    assert branches.keys() <= vocabulary.OPTIMIZERS.keys()
