"""Every command, link and list in the README and in docs/ is right: commands go through the real parsers, nothing is run."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from mfubench.config import ConfigError, Experiment, Framework
from mfubench.config.compose import check_command_line, compose_one, flags_first, store_schema
from mfubench.measure.status import STATUSES
from mfubench.plan.native import Place, make_plan
from mfubench.plan.support import values_of
from mfubench.watch import compose_settings
from mfubench.workload import Workload

ROOT = Path(__file__).parent.parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = (README, CONTRIBUTING, ROOT / "outputs" / "reference" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BEGINNINGS = ("python -m mfubench", "python launchers/", "make ", "launchers/install")
MENTION = re.compile(
    r"…|\bNAME\b|\bKEY\b|^(make|launchers/install|python -m [\w.]+)$"
)  # names a command, and isn't one
WIDTH, README_LINES = 120, 150


def commands(page: str) -> Iterator[str]:
    """Yield the commands of a page, without comments: lines of fenced blocks, and inline code that is a whole command."""
    prose: list[str] = []
    fenced: list[str] = []
    in_fence = False
    for line in page.splitlines():
        if line.lstrip().startswith("```"):
            in_fence = not in_fence
        else:
            (fenced if in_fence else prose).append(line.strip())
    inline = re.findall(r"`([^`\n]+)`", "\n".join(prose))
    written = [*"\n".join(fenced).replace("\\\n", "").splitlines(), *(c for c in inline if not MENTION.search(c))]
    yield from (shlex.join(shlex.split(line, comments=True)) for line in written if line.startswith(BEGINNINGS))


class Parsed(Exception):
    """A command's own parser has accepted its arguments."""


def parsed(main: Callable[..., object], arguments: list[str]) -> argparse.Namespace:
    """The arguments as the command's own parser reads them; nothing that comes after it runs. SystemExit if it refuses."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as found:
        for method in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, method)

            def parse(*args: Any, _original: Any = original) -> None:
                raise Parsed(_original(*args))

            patch.setattr(argparse.ArgumentParser, method, parse)
        main(arguments)
    given = found.value.args[0]
    assert isinstance(given, argparse.Namespace)
    return given


@cache
def check(command: str) -> None:
    """Check a command as its program would, without starting anything. Raises ConfigError, SystemExit or AssertionError."""
    words = shlex.split(command)
    if words[0] == "make":
        check_make(words[1:])
    elif words[0] == "launchers/install":
        check_install(words[1:])
    elif words[1] != "-m":
        assert (ROOT / words[1]).is_file(), f"{words[1]} is not there"
    elif words[2] == "mfubench":
        check_run(words[3:])
    else:
        assert find_spec(words[2]), f"there is no {words[2]}"
        name = words[2] if hasattr(import_module(words[2]), "main") else f"{words[2]}.__main__"
        given = parsed(import_module(name).main, words[3:])
        if "overrides" in given:
            compose_one(given.overrides)
        if "settings" in given:
            compose_settings(given.settings, given.steps)


def check_run(arguments: list[str]) -> None:
    """Compose and validate every job of `python -m mfubench`, as the command does before it starts anything."""
    store_schema()
    check_command_line(flags_first(arguments))


def check_make(words: list[str]) -> None:
    """The targets and variables are the Makefile's, ARGS what the target's command takes."""
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for word in words if "=" not in word]
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    assert targets and set(targets) <= set(re.findall(r"^([\w-]+):", makefile, re.M)), f"no target {targets}"
    assert variables.keys() <= set(re.findall(r"^(\w+) \?=", makefile, re.M)), f"no variable {list(variables)}"
    passed = shlex.split(variables.get("ARGS", ""))
    if targets == ["run"]:
        check_run(passed)
    for path in (word.partition("::")[0] for word in passed if word.startswith("tests/")):
        assert (ROOT / path).exists(), f"{path} is not there"


def check_install(arguments: list[str]) -> None:
    """The installer takes the arguments, and each framework has an environment to install."""
    loader = SourceFileLoader("install", str(ROOT / "launchers" / "install"))
    spec = spec_from_loader("install", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    given = parsed(module.main, arguments)
    for name in given.names if not given.extras else ():
        assert (ROOT / "launchers" / name / "requirements.txt").is_file(), f"{name} has no requirements.txt"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_accepted(page: Path) -> None:
    for command in dict.fromkeys(commands(page.read_text())):
        try:
            check(command)
        except (ConfigError, SystemExit, AssertionError) as error:
            pytest.fail(f"{page.name}: {command}\n{type(error).__name__}: {error}")


def test_the_pages_have_commands_of_every_kind() -> None:
    found = [command for page in PAGES for command in commands(page.read_text())]
    for beginning in (
        *BEGINNINGS,
        *(f"python -m mfubench.{name}" for name in ("flops", "report", "tracking", "doctor")),
    ):
        assert any(command.startswith(beginning) for command in found), beginning


@pytest.mark.parametrize(
    "wrong",
    [
        "python -m mfubench mod=lora",
        "python -m mfubench -m mode=full,lorra",
        "python -m mfubench batch_size=0",
        "python -m mfubench experiment=zero-stage",
        "python -m mfubench.flops model=lama-tiny --json",
        "python -m mfubench.flops --convention",
        "python -m mfubench.report outputs/ --fromat html",
        "python -m mfubench.tracking --workspace",
        "python -m mfubench.reprot outputs/",
        "python -m mfubench.watch hardwear=h100-sxm -- python train.py",
        "python launchers/llmforge/finetun.py FILE.yaml",
        "launchers/install axolotol",
        "make tests",
        'make run ARG="mode=lora"',
        'make run ARGS="mode=lorra"',
        'make test ARGS="tests/plan/test_suport.py"',
    ],
)
def test_a_wrong_command_in_a_page_is_found(wrong: str) -> None:
    fenced, inline = f"Try it:\n\n```\n{wrong}  # a comment\n```\n", f"Try `{wrong}`.\n"
    (command,), (same,) = commands(fenced), commands(inline)
    assert command == same
    with pytest.raises((ConfigError, SystemExit, AssertionError)):
        check(command)


def test_the_conventions_are_printed_as_the_page_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    from mfubench.flops.__main__ import main

    page = (ROOT / "docs" / "flops.md").read_text()
    (command,) = (command for command in commands(page) if "--conventions" in command)
    assert main(shlex.split(command)[3:]) == 0
    formulas = capsys.readouterr().out.partition("published formulas")[2]
    printed = [line.split() for line in formulas.splitlines() if re.search(r"\d\.\d{3} +\d\d\.\d%$", line.strip())]
    excerpt = [line.split() for line in page.splitlines() if re.search(r"\d\.\d{3} +\d\d\.\d%$", line)]
    assert len(excerpt) == 8
    assert all(line in printed for line in excerpt)
    least, *_, most, rule_of_thumb = sorted(float(line[-2]) for line in printed)
    words = " ".join(page.split())
    assert f"of {len(printed)} sources" in words
    assert f"{least:.1f} to {most:.1f} TFLOP, and one rule of thumb gives {rule_of_thumb:.1f}" in words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_lines_are_short(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert link.startswith("https://") or (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"
    long = [line for line in text.splitlines() if len(line) > WIDTH]
    assert not long, f"{page.name} has lines of more than {WIDTH} columns: {long}"


def test_every_page_is_linked_from_the_readme_which_is_short() -> None:
    text = README.read_text()
    assert all(f"(docs/{page.name})" in text for page in PAGES if page.parent.name == "docs")
    assert len(text.splitlines()) <= README_LINES


def table(page: str, heading: str) -> list[str]:
    """The words in code in the first column of the first table below a heading."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture(scope="module")
def frameworks_page() -> str:
    return (ROOT / "docs" / "frameworks.md").read_text()


def test_the_table_of_keys_has_every_key_of_a_framework(frameworks_page: str) -> None:
    assert {field.name for field in fields(Framework)} <= set(table(frameworks_page, "The keys of a framework's YAML"))


def test_the_table_of_when_has_every_word_and_no_other(
    frameworks_page: str, compose: Callable[..., Experiment]
) -> None:
    words = table(frameworks_page, "Words that `when` and `unsupported` may use")
    assert sorted(words) == sorted(values_of(compose(), "cpu", "fp32"))


def test_the_table_of_interpolations_has_every_word_and_no_other(
    frameworks_page: str, compose: Callable[..., Experiment], tmp_path: Path
) -> None:
    words = table(frameworks_page, "Words that `${…}` may use")
    place = Place(tmp_path, tmp_path, tmp_path, "python", "cpu", "fp32", 1)
    work = Workload("m", "t", "j", "a", 1, None)

    experiment = compose()

    def interpolated(name: str) -> str:
        framework = replace(experiment.framework, native={"word": f"${{{name}}}"})
        return make_plan(replace(experiment, framework=framework), work, place).config_text

    with pytest.raises(ConfigError) as refused:
        interpolated("nothing_of_this_name")
    names = re.findall(r"[a-z_]+", refused.value.expected.partition(" of ")[2])
    assert {word.partition(".")[0] for word in words} == set(names)
    for word in words:
        interpolated(word)  # raises ConfigError if it isn't there
    groups = {field.name: field.type for field in fields(Experiment)}
    for name in ("mode", "parallelism", "model", "data", "liger"):
        kind = getattr(import_module("mfubench.config.schema"), str(groups[name]))
        assert {f"{name}.{field.name}" for field in fields(kind)} <= set(words)
    assert {f"workload.{field.name}" for field in fields(Workload)} <= set(words)


def test_the_settings_page_names_every_option_and_setting() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    words = {word.strip(".") for word in re.findall(r"[\w.]+(?:-[\w.]+)*", page)}
    own = {path.stem for path in (ROOT / "conf" / "hardware").glob("*.yaml")}
    options = {path.stem for path in (ROOT / "conf").glob("*/*.yaml")} - own - {"mfubench"}
    assert not {name for name in options | {field.name for field in fields(Experiment)} if name not in words}


def test_the_operation_page_explains_every_status() -> None:
    assert table((ROOT / "docs" / "operation.md").read_text(), "Statuses") == list(STATUSES)


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=lambda page: page.name)
def test_the_trees_show_files_that_exist_and_every_room(page: Path) -> None:
    tree = re.search(r"^```\nmfubench/\n(.*?)^```", page.read_text(), re.M | re.S)
    assert tree is not None
    rooms = re.findall(r"^  (\w+/|\w+\.py)", tree[1], re.M)
    real = {f"{p.parent.name}/" for p in (ROOT / "mfubench").glob("*/__init__.py")} | {"run.py", "__main__.py"}
    assert set(rooms) - {"reference.py", "watch.py"} == real
    for name in re.findall(r"\b\w+\.(?:py|yaml)\b", tree[1]):
        assert any((ROOT / "mfubench").rglob(name)), f"{page.name}: {name} is not there"
