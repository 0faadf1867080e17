"""Packages that a setting needs: looked for in the framework's own interpreter before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mfubench.config import ConfigError, Experiment
from mfubench.config.defaults import extras
from mfubench.launch.programs import responds
from mfubench.plan import engines, support

Compose = Callable[..., Experiment]
# The command line on a machine of which the driver lists four GPUs; nothing is started on them.
ON_FOUR_GPUS = """
import sys
from mfubench.hardware import machine
h200 = [machine.Gpu(f"GPU-{{i}}", "NVIDIA H200", 140 * 2**30, (9, 0)) for i in range(4)]
machine._driver_lists = lambda: ("580", h200)
from {module} import main
sys.exit(main())
"""


def needed(experiment: Experiment) -> dict[str, str]:
    values = support.values_of(experiment, "cuda", "bf16", None)
    return support.needed_extras(experiment.framework, values)


def on_four_gpus(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ON_FOUR_GPUS.format(module=module), *arguments]
    wide = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, cwd=folder, env=wide, capture_output=True, text=True, check=False, timeout=300)


def test_what_needs_a_package_is_data_and_left_open_it_needs_none(compose: Compose) -> None:
    assert needed(compose()) == {}
    assert needed(compose("attention=flash_attention_2", "mode=qlora")) == {
        "flash-attn": "attention=flash_attention_2",
        "bitsandbytes": "mode=qlora",
    }
    assert needed(compose("parallelism=zero3", "liger_kernel=true")) == {
        "liger-kernel": "liger_kernel=true",
        "deepspeed": "parallelism=zero3",
    }
    assert needed(compose("framework=trl", "attention=flash_attention_2", "comparison=defaults")) == {}


def test_a_package_may_be_needed_in_one_framework_only(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"lonely": {"module": "lonely", "settings": [{"framework": "trl", "attention": ["sdpa", "eager"]}]}}
    monkeypatch.setattr(support, "extras", lambda: one)
    assert needed(compose("framework=trl")) == {"lonely": "framework=trl, attention=sdpa"}
    assert needed(compose("framework=hf_trainer")) == {}
    monkeypatch.setattr(support, "extras", lambda: {"lonely": {"settings": [{"atention": "sdpa"}]}})
    with pytest.raises(ConfigError, match=r"conf/extras\.toml: lonely names what is no setting"):
        needed(compose())


def test_the_frameworks_own_interpreter_is_asked_and_the_message_has_both_ways_out(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = extras()
    there = {**known["flash-attn"], "module": "json"}
    monkeypatch.setattr(engines, "extras", lambda: {**known, "there": there})
    flash = {"flash-attn": "attention=flash_attention_2"}
    ours = compose().framework
    engines.check_extras(ours, {"there": "seed=0"}, tmp_path, responds)
    with pytest.raises(engines.NotInstalled) as caught:
        engines.check_extras(ours, flash, tmp_path, responds)
    assert str(caught.value) == (
        "attention=flash_attention_2 needs flash-attn, which the environment of hf_trainer lacks: "
        "python launchers/install hf_trainer --with flash-attn; or, for the whole sweep, attention=sdpa"
    )
    # its own environment, which has the package that ours lacks
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "own"], check=True)
    (packages,) = (tmp_path / "own").glob("lib/python*/site-packages")
    (packages / "flash_attn.py").touch()
    engines.check_extras(replace(ours, python="own/bin/python"), flash, tmp_path, responds)
    users = replace(ours, python=str(tmp_path / "own" / "bin" / "python"))
    with pytest.raises(engines.NotInstalled, match=r"own/bin/python -m pip install 'bitsandbytes>=0\.50'; or"):
        engines.check_extras(users, {"bitsandbytes": "mode=qlora"}, tmp_path, responds)


def test_an_engine_from_elsewhere_is_not_asked(compose: Compose, tmp_path: Path) -> None:
    elsewhere = replace(compose().framework, command=["tool", "run"])
    engines.check_extras(elsewhere, {"flash-attn": "attention=flash_attention_2"}, tmp_path, lambda _: False)


def test_an_environment_that_is_missing_is_made_with_what_comes_with_no_framework(
    compose: Compose, tmp_path: Path
) -> None:
    trl = compose("framework=trl").framework
    with pytest.raises(engines.NotInstalled, match=r"launchers/install trl --with flash-attn$"):
        engines.check_installed(trl, tmp_path, ["flash-attn", "liger-kernel"])


def test_the_published_study_without_flash_attention_starts_nothing_and_says_so_once_per_framework(
    tmp_path: Path,
) -> None:
    done = on_four_gpus(tmp_path, "mfubench.__main__", "experiment=axolotl-vs-llmforge", "tracking=none")
    assert done.returncode == 3
    assert done.stdout.count(" not_installed") >= 4 and "unsupported" not in done.stdout
    said = " ".join(done.stdout.split())
    for name in ("axolotl", "llmforge"):
        assert said.count(f"launchers/install {name} --with flash-attn") == 1, done.stdout
    assert not list(tmp_path.rglob("framework.log")) and not list(tmp_path.rglob("plan.json"))
    assert len((done.stdout + done.stderr).splitlines()) <= 30


def test_the_doctor_says_it_too(tmp_path: Path) -> None:
    asked = ("framework=hf_trainer", "attention=flash_attention_2")
    done = on_four_gpus(tmp_path, "mfubench.doctor.__main__", *asked)
    assert done.returncode == 3
    said = " ".join(done.stdout.split())
    assert said.count("python launchers/install hf_trainer --with flash-attn") == 2  # the problem, and the matrix
