"""A published study's figures beside runs of the same, compared with this project's counts and with sums worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mfubench.flops.counts import FlopCount
from mfubench.report.published.studies import Study, counted, meaning, share, studies
from mfubench.report.published.tables import sections
from mfubench.report.section import Section
from mfubench.result import Result

STUDY = ("gradient_checkpointing=reentrant", "parallelism=zero2", "sequence_length=2048")
SIDES = [(framework, mode) for framework in ("axolotl", "llmforge") for mode in ("full", "lora")]
# Name, mode -> printed "MFU"; MFU by its usual meaning: model TFLOP (197.6 full, 136.5 LoRA) / step time / 312 TFLOP/s.
PRINTED = {
    ("LLMForge", "lora"): (0.559, 136.5 / 1.15 / 312),
    ("Axolotl", "lora"): (0.527, 136.5 / 1.22 / 312),
    ("LLMForge", "full"): (0.566, 197.6 / 1.48 / 312),
    ("Axolotl", "full"): (0.551, 197.6 / 1.52 / 312),
}


@pytest.fixture
def study() -> Study:
    (only,) = studies()
    return only


@pytest.fixture
def runs(result: Callable[..., Result]) -> Callable[..., list[Result]]:
    """The four runs of the study, as a rehearsal on a CPU would have them; `overrides` of all."""

    def made(*overrides: str) -> list[Result]:
        return [
            result(f"framework={framework}", f"mode={mode}", *STUDY, *overrides, framework=framework, seconds=0.5)
            for framework, mode in SIDES
        ]

    return made


def row_of(section: Section, name: str, mode: str) -> dict[str, str]:
    (row,) = (row for row in section.rows if row[0] == name and row[1] == mode)
    return dict(zip(section.headers, row, strict=True))


def test_what_was_printed_as_mfu_is_hfu_in_every_row(study: Study) -> None:
    for row in study.rows:
        printed, mfu = PRINTED[row.name, row.of["mode.name"]]
        assert row.mfu == printed
        assert meaning(study, row) == "hardware_flops"
        assert share(study, row, counted(study, row).hardware_flops) == pytest.approx(printed, abs=6e-4)
        assert share(study, row, counted(study, row).model_flops) == pytest.approx(mfu, abs=2e-4)


def test_the_published_flops_are_counted_here_for_the_same_settings(study: Study) -> None:
    for row in study.rows:
        assert counted(study, row).hardware_flops / 1e12 == pytest.approx(row.tflop, abs=0.06)
        plain = counted(study, row, "none").hardware_flops / 1e12
        assert plain == pytest.approx(row.tflop_without_recomputation, abs=0.06)


def test_the_three_tables_have_published_and_measured_side_by_side(runs: Callable[..., list[Result]]) -> None:
    flops = FlopCount(2_500_000_000_000, 0, 3_500_000_000_000, 0, parameters=0, trainable_parameters=0, uncounted={})
    utilisation, of_a_step, times, _ = sections([replace(run, flops=flops) for run in runs()])
    row = row_of(utilisation, "LLMForge", "lora")
    assert (row["printed MFU"], row["its HFU"], row["its MFU"]) == ("55.9%", "55.9%", "38.0%")
    assert (row["HFU here"], row["MFU here"]) == ("16.8%", "16.0%")  # 0.42 and 0.4 of a step of 0.2 s, at 0.5 s
    assert "is HFU" in utilisation.paragraphs[1]
    row_of_full = of_a_step.rows[[tuple(row[:2]) for row in of_a_step.rows].index(("Axolotl", "full"))]
    assert row_of_full[2:] == ["261.4", "261.4", "199.8", "199.8", "197.6", "3.5", "2.5"]
    row = row_of(times, "Axolotl", "full")
    assert (row["published"], row["mean here"]) == ("1.52 s", "500 ms ±1.0%")
    assert "the last step weighs 0.3, the one before it 0.21" in times.paragraphs[0]


def test_runs_that_are_not_the_published_ones_say_in_what(runs: Callable[..., list[Result]]) -> None:
    said = " ".join(sections(runs("parallelism.num_devices=2"))[0].paragraphs)
    for deviation in (
        "model.name llama-tiny for llama-3.1-8b",
        "parallelism.num_devices 2 for 4",
        "attention sdpa for flash_attention_2",
        "liger.cross_entropy false for true (LLMForge lora, LLMForge full)",
        "2 × A chip",
    ):
        assert deviation in said
    assert "batch_size 2 for" not in said and "sequence_length" not in said


def test_a_side_that_could_not_run_stands_there_with_its_status(runs: Callable[..., list[Result]]) -> None:
    refused = [
        replace(run, status="unsupported", measurement=None, work=None) if "axolotl" in run.framework else run
        for run in runs()
    ]
    utilisation, _, times, sides = sections(refused)
    assert row_of(utilisation, "Axolotl", "full")["HFU here"] == "unsupported"
    assert row_of(times, "Axolotl", "full")["mean here"] == "unsupported"
    assert row_of(times, "LLMForge", "full")["mean here"] == "500 ms ±1.0%"
    assert len(sides.paragraphs) == 2


def test_what_the_sides_did_differently_is_said_as_published_asked_and_seen(
    runs: Callable[..., list[Result]],
) -> None:
    found = runs()
    work = {**(found[0].work or {}), "liger_kernels": ["LigerRMSNorm"]}
    sides = sections([replace(found[0], work=work), *found[1:]])[-1]
    said = [tuple(row) for row in sides.rows]
    assert ("full", "liger.cross_entropy", "true", "false", "published") in said
    assert any(row[1] == "mode.target_modules" and row[2].endswith("lm_head") for row in said)
    assert any(row[:2] == ("full", "Liger kernels") and row[4] == "seen here" for row in said)


def test_without_a_run_of_every_row_there_is_no_study(runs: Callable[..., list[Result]]) -> None:
    assert sections(runs()[:3]) == ()
    assert sections([]) == ()


def test_of_several_settings_the_one_nearest_to_the_published_is_held_against_it(
    runs: Callable[..., list[Result]],
) -> None:
    others = [replace(run, status="failed", measurement=None) for run in runs("batch_size=4")]
    utilisation = sections(others + runs())[0]
    assert {row[-2] for row in utilisation.rows} == {"16.8%"}
