"""Which of a framework's engines runs, and how readers are told."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mfubench.config import ConfigError, Experiment, Framework
from mfubench.launch.programs import responds
from mfubench.plan import engines

OWN = {"name": "tool", "probe": ["tool", "--help"], "command": ["tool", "run"]}
OPEN = {"name": "open-tool", "probe": None, "command": ["python", "run.py"]}


@pytest.fixture
def tool(compose: Callable[..., Experiment]) -> Framework:
    return replace(compose().framework, name="tool", command=None, engines=[OWN, OPEN])


def test_the_first_engine_that_answers_runs(tool: Framework) -> None:
    asked: list[tuple[str, ...]] = []

    def here(command: tuple[str, ...]) -> bool:
        asked.append(command)
        return True

    chosen, name = engines.choose(tool, here)
    assert (name, chosen.command) == ("tool", ["tool", "run"])
    assert asked == [("tool", "--help")]
    chosen, name = engines.choose(tool, lambda _: False)
    assert (name, chosen.command) == ("open-tool", ["python", "run.py"])


def test_an_engine_that_is_asked_for_runs_or_nothing_does(tool: Framework) -> None:
    assert engines.choose(replace(tool, engine="open-tool"), lambda _: True)[1] == "open-tool"
    with pytest.raises(engines.NotInstalled, match=r"`tool --help` did not answer \(framework.engine=open-tool is"):
        engines.choose(replace(tool, engine="tool"), lambda _: False)


def test_a_framework_with_one_command_has_no_engine(compose: Callable[..., Experiment]) -> None:
    framework = compose().framework
    assert engines.choose(framework, lambda _: False) == (framework, None)


def test_an_engine_that_is_not_complete_is_refused(tool: Framework) -> None:
    with pytest.raises(ConfigError, match=r"conf/framework/tool\.yaml: an engine that is not complete"):
        engines.choose(replace(tool, engines=[{"name": "half"}]), lambda _: True)


def test_only_the_frameworks_own_program_has_its_bare_name() -> None:
    assert engines.label("tool", None) == engines.label("tool", "tool") == "tool"
    assert engines.label("tool", "open-stack") == "tool (open stack)"


def test_a_program_answers_when_it_ends_with_0(tmp_path: Path) -> None:
    assert responds((sys.executable, "-c", "pass"))
    assert not responds((sys.executable, "-c", "raise SystemExit(1)"))
    assert not responds((str(tmp_path / "nothing"),))


def stand_in(folder: Path) -> None:
    """An executable `llmforge` that answers and, started on a file, trains by the open stack's program, saying how."""
    folder.mkdir()
    program = folder / "llmforge"
    train = Path(__file__).parents[2] / "launchers" / "llmforge" / "finetune.py"
    program.write_text(
        f"""#!/bin/sh
'exec' {sys.executable!r} "$0" "$@"  # which Python reads as a text: a path after #! has no spaces
import os, sys
if sys.argv[1:] == ["anyscale", "finetune", "--help"]:
    sys.exit(0)
open(os.path.join(os.path.dirname(__file__), "argv"), "a").write(repr(sys.argv[1:]) + "\\n")
os.execv({sys.executable!r}, [{sys.executable!r}, {str(train)!r}, sys.argv[3]])
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_real_command_line_is_started_where_it_answers_and_the_result_says_so(tmp_path: Path) -> None:
    stand_in(tmp_path / "bin")
    result = run(tmp_path, path=tmp_path / "bin")
    assert (result["status"], result["engine"], result["framework"]) == ("ok", "llmforge", "llmforge")
    assert result["name"] == "llmforge-llama-tiny-full"
    config = Path(result["provenance"]["folder"]) / "llmforge.yaml"
    assert result["plan"]["command"] == ["llmforge", "anyscale", "finetune", str(config)]
    assert (tmp_path / "bin" / "argv").read_text() == f"{['anyscale', 'finetune', str(config)]!r}\n"


@pytest.mark.slow
def test_the_placeholder_package_is_not_taken_for_the_real_one(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*pip, "llmforge==0.0.2"], check=True)
    result = run(tmp_path, path=tmp_path / "site" / "bin", PYTHONPATH=str(tmp_path / "site"))
    assert (result["status"], result["engine"], result["framework"]) == ("ok", "open-stack", "llmforge (open stack)")
    assert result["name"] == "llmforge-open-stack-llama-tiny-full"


def run(folder: Path, *, path: Path, **environment: str) -> dict:
    """The result of a small run with another folder first on PATH."""
    import json

    small = ("hidden_size=96", "intermediate_size=192", "num_hidden_layers=2", "vocab_size=8192")
    argv = [sys.executable, "-m", "mfubench", "framework=llmforge", "gradient_checkpointing=reentrant"]
    argv += [
        "measurement=quick",
        "hardware.peak_flops_per_second=1e12",
        "sequence_length=64",
        *(f"model.architecture.{each}" for each in small),
    ]
    env = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    env |= {key: os.pathsep.join([value, env.get(key, "")]) for key, value in environment.items()}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    (file,) = (folder / "outputs").rglob("result.json")
    result: dict = json.loads(file.read_text())
    assert result["framework"] in done.stdout, done.stderr
    return result
