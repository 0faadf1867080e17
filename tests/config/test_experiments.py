"""The named studies of conf/experiment/: what each of them runs, and that it is the published settings where it says so."""

from __future__ import annotations

import functools
from dataclasses import asdict

import pytest
import yaml

from mfubench.config import Experiment
from mfubench.config.compose import check_command_line, store_schema
from mfubench.config.defaults import defaults
from mfubench.config.validate import validate
from mfubench.files.paths import CONF
from mfubench.plan.support import Unsupported, check_supported, inapplicable, values_of
from mfubench.report.published.studies import studies

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
PUBLISHED = "experiment=axolotl-vs-llmforge"
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@functools.cache
def jobs(*argv: str) -> tuple[Experiment, ...]:
    """The jobs that the command line is expanded to, in their order."""
    found: list[Experiment] = []
    store_schema()
    check_command_line(argv, found.append)
    return tuple(found)


def by_side(*argv: str) -> dict[tuple[str, str], Experiment]:
    return {(job.framework.name, job.mode.name): job for job in jobs(PUBLISHED, *argv)}


def why_not(job: Experiment, device: str) -> str | None:
    """Why the job's framework can't do it on such a device; None: it can."""
    precision = job.precision.replace("auto", "fp32" if device == "cpu" else "bf16")
    engine = "open-stack" if job.framework.engines else None
    try:
        check_supported(job, values_of(job, device, precision, engine), defaults(job.mode.name))
    except Unsupported as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", NAMES)
def test_every_study_is_a_sweep_of_valid_jobs_that_differ(name: str) -> None:
    found = jobs(f"experiment={name}")
    assert len(found) > 1
    for job in found:
        validate(job)
    assert all(one != other for i, one in enumerate(found) for other in found[:i])


@pytest.mark.parametrize("name", NAMES)
def test_every_study_says_at_its_top_what_it_is_for(name: str) -> None:
    package, first, *_ = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert package == "# @package _global_" and first.startswith("# ")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("liger", "axolotl-vs-llmforge")])
def test_the_other_studies_are_of_the_small_model_and_run_on_a_cpu(name: str) -> None:
    found = [job for job in jobs(f"experiment={name}") if job.framework.name == "hf_trainer"]
    assert {job.model.name for job in found} == {"llama-tiny"}
    assert [why_not(job, "cpu") for job in found] == [None] * len(found)


def test_the_study_of_frameworks_has_all_of_them() -> None:
    here = {path.stem for path in (CONF / "framework").glob("*.yaml")}
    found = jobs("experiment=frameworks")
    assert {job.framework.name for job in found} == here and len(found) == 2 * len(here)


def test_the_published_study_is_four_runs_each_side_with_its_own_kernels_and_targets() -> None:
    sides = by_side()
    assert list(sides) == [("axolotl", "full"), ("axolotl", "lora"), ("llmforge", "full"), ("llmforge", "lora")]
    for (framework, mode), job in sides.items():
        fused = framework == "axolotl"
        assert (job.liger.fused_linear_cross_entropy, job.liger.cross_entropy) == (fused, not fused)
        targets = None if mode == "full" else PROJECTIONS if fused else [*PROJECTIONS, "lm_head"]
        assert job.mode.target_modules == targets
        assert why_not(job, "cuda") is None
        assert list(inapplicable(job, defaults(mode))) == []


def test_with_weights_and_data_from_the_hub_its_settings_are_the_published_ones() -> None:
    (study,) = studies()
    sides = by_side("model.weights=hub", "data=alpaca")
    for row in study.rows:
        asked = asdict(sides[row.of["framework.name"], row.of["mode.name"]])
        for path, published in {**study.of, **study.settings, **row.settings, **row.of}.items():
            value = asked
            for key in path.split("."):
                value = value[key]
            assert value == published, path


def test_without_a_word_of_the_hub_it_needs_none() -> None:
    assert {(job.model.weights, job.data.name) for job in jobs(PUBLISHED)} == {("random", "synthetic")}


def test_one_side_and_mode_alone_can_be_repeated() -> None:
    found = jobs(PUBLISHED, "framework=llmforge", "mode=lora", "repeat=range(3)")
    assert [(job.framework.name, job.mode.name, job.repeat) for job in found] == [
        ("llmforge", "lora", i) for i in range(3)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_goes_through_its_repeats_outermost(name: str) -> None:
    sweeper = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())["hydra"]["sweeper"]
    assert next(iter(sweeper["params"].items())) == ("repeat", 0)


def test_repeats_of_the_published_study_stand_beside_each_other_in_time() -> None:
    once = list(by_side())
    found = jobs(PUBLISHED, "repeat=range(3)")
    assert [job.repeat for job in found] == [0] * len(once) + [1] * len(once) + [2] * len(once)
    assert [(job.framework.name, job.mode.name) for job in found] == 3 * once


def test_its_rehearsal_asks_nothing_of_a_cpu_that_only_a_gpu_has() -> None:
    for (framework, mode), job in by_side("model=llama-tiny", "parallelism.num_devices=2").items():
        assert (job.parallelism.name, job.sequence_length, job.batch_size) == ("zero2", 2048, 2)
        assert job.gradient_checkpointing.name == "reentrant"
        reason = why_not(job, "cpu")
        assert reason is None if framework == "llmforge" else "each rank loads the model" in (reason or "")
        assert list(inapplicable(job, defaults(mode))) == []
    on_one = by_side("model=llama-tiny", "parallelism=single", "parallelism.num_devices=1")
    assert [why_not(job, "cpu") for job in on_one.values()] == [None] * 4


def test_the_command_line_wins_over_what_a_study_sets_for_a_side() -> None:
    asked = by_side("model=llama-tiny", "attention=eager", "mode.target_modules=[q_proj]")
    assert {job.attention for job in asked.values()} == {"eager"}
    assert asked["llmforge", "lora"].mode.target_modules == ["q_proj"]


def test_what_a_study_sets_for_some_runs_reaches_no_other_run() -> None:
    (plain,) = jobs("framework=llmforge", "mode=lora")
    assert plain.mode.target_modules == PROJECTIONS and not plain.liger.cross_entropy


def test_every_file_beside_a_study_belongs_to_one() -> None:
    folders = {path.name for path in (CONF / "experiment").iterdir() if path.is_dir()}
    assert folders <= set(NAMES)
    for name in folders:
        assert (CONF / "experiment" / name / "by_choice.yaml").is_file()
