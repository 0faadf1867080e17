"""What of a result becomes a column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from architectures import MODELS
from logged import CONFIG, TAGS, Made

from mfubench.config import Experiment
from mfubench.config.vocabulary import MODES, packages
from mfubench.files.paths import CONF
from mfubench.result.flat import leaves
from mfubench.tracking import content

Compose = Callable[..., Experiment]

GPU = {
    "uuid": "GPU-0",
    "looks": 10,
    "power_w_mean": 650.5,
    "power_limit_w": None,
    "throttled": {"software power cap": 0.5},
    "foreign_processes": [4711, 4712],
}


def test_each_devices_conditions_are_scalars_with_its_number(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "run", conditions=[GPU, {**GPU, "throttled": {}, "foreign_processes": []}])
    assert {name: value for name, value in content.summary(result).items() if name.startswith("machine/")} == {
        "machine/0/looks": 10,
        "machine/0/power_w_mean": 650.5,
        "machine/0/throttled_software_power_cap": 0.5,
        "machine/0/foreign_processes": "4711, 4712",
        "machine/0/unrecognised_processes": 0,
        "machine/0/uuid": "GPU-0",
        "machine/1/looks": 10,
        "machine/1/power_w_mean": 650.5,
        "machine/1/unrecognised_processes": 0,
        "machine/1/uuid": "GPU-0",
    }


def test_a_run_that_is_not_ok_has_its_warnings_and_no_conditions(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "run", status="failed", reason="exit status 1", measurement=None)
    assert content.summary(result) == {
        "status": "failed",
        "reason": "exit status 1",
        "warnings": "imprecise, busy_machine",
        "_runtime": 300.4,
        "_wandb": {"runtime": 300},
    }
    assert content.history(result) == []


def test_a_run_of_too_few_steps_says_that_it_has_no_interval(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "run", measurement={"steps": 8, "ci95": {}})
    said = {name: value for name, value in content.summary(result).items() if name.startswith("ci95/")}
    assert said == {"ci95/none": "8 steps: no interval"}


def test_the_label_that_the_runs_are_grouped_by_names_the_engine(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "run", framework="some_trainer (fast)", engine="fast")
    framework = {"name": "some_trainer", "label": "some_trainer (fast)", "engine": "fast"}
    assert content.config(result)["framework"] == framework


@pytest.mark.parametrize("mode", MODES)
def test_no_run_has_more_than_60_values_in_its_config_or_one_that_is_not_resolved(
    mode: str, compose: Compose, run_folder: Made, tmp_path: Path
) -> None:
    environment = {package: "1.2.3" for package in (*packages("run"), *packages("step"), "typer")}
    settings = asdict(compose(f"mode={mode}", "parallelism=zero3", "liger_kernel=true", "data=alpaca"))
    for model in MODELS:
        result, _ = run_folder(
            tmp_path / model,
            settings=settings | {"model": yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())},
            hardware={"driver": "580"},
            provenance={"framework_environment": environment},
        )
        config = content.config(result)
        del config["native"]
        assert len(list(leaves(config))) <= 60
        assert "${" not in str(config) and "auto" not in config.values()
        sizes = {"num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "num_key_value_heads"}
        assert sizes <= config["model"]["architecture"].keys()
        assert config["mode"].keys() == {"name", *content.OF_MODE[mode]}


def test_the_native_config_is_as_the_framework_reads_it_in_json_too(run_folder: Made, tmp_path: Path) -> None:
    plan = {"config_file": "trainer.json", "config": '{"lr": 1e-05, "modules": ["q_proj"]}'}
    result, _ = run_folder(tmp_path / "run", plan=plan)
    assert content.config(result)["native"] == {"lr": 1e-05, "modules": ["q_proj"]}


def test_settings_that_are_left_to_the_framework_are_not_shown(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "0")
    settings = {**result.settings, "comparison": "defaults"}
    result, _ = run_folder(tmp_path / "1", settings=settings)
    left = CONFIG.keys() - {"gradient_checkpointing", "attention", "liger_kernel", "liger"}
    assert content.config(result).keys() == left


def test_a_tag_is_as_long_as_wandb_takes_it_and_stands_once(run_folder: Made, tmp_path: Path) -> None:
    given = ["mode.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]", "repeat=2", "repeat=2"]
    result, _ = run_folder(tmp_path / "run", provenance={"overrides": given}, warnings=[])
    assert content.tags(result) == [*TAGS[:4], "mode.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_pr"]
