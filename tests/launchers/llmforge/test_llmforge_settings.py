"""conf/framework/llmforge.yaml: which settings LLMForge's schema can say, and that what it says is read as it was meant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mfubench import workload
from mfubench.config import Experiment
from mfubench.config.defaults import defaults
from mfubench.files.paths import LAUNCHERS, ROOT
from mfubench.plan import engines, support
from mfubench.plan.native import Place, make_plan

HERE = (("cpu", "fp32"), ("cpu", "bf16"), ("cuda", "bf16"), ("cuda", "bf16_pure"), ("cuda", "fp32"))


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("parallelism", ["single", "ddp", "zero0", "zero1", "zero2", "zero3", "fsdp2"])
def test_every_precision_that_a_file_can_say_is_one_that_the_program_reads(
    compose: Callable[..., Experiment], modules: SimpleNamespace, tmp_path: Path, mode: str, parallelism: str
) -> None:
    experiment = compose("framework=llmforge", f"mode={mode}", f"parallelism={parallelism}")
    understood = []
    for device, precision in HERE:
        read = as_read(experiment, device, precision, modules, tmp_path)
        if read is None:
            continue
        understood.append((device, precision))
        assert read.num_devices == experiment.parallelism.num_devices
        assert (read.lora is None) == (mode == "full")
        if read.lora is not None:
            assert read.lora["target_modules"] == experiment.mode.target_modules
            assert (read.lora["r"], read.lora["lora_alpha"], read.lora["lora_dropout"]) == (8, 16, 0.05)
        if parallelism.startswith("zero"):
            assert read.deepspeed.bf16 == (precision != "fp32")
            assert read.deepspeed.stage == int(parallelism.removeprefix("zero"))
        else:
            assert read.deepspeed is None
    if parallelism == "fsdp2":
        assert understood == []
    elif parallelism in ("single", "ddp"):
        assert understood == [("cpu", "fp32"), ("cuda", "bf16")]
    else:
        assert understood == [here for here in HERE if parallelism != "zero0" or here[1] != "bf16_pure"]


def test_every_other_setting_that_a_file_can_say_is_one_that_the_program_reads(
    compose: Callable[..., Experiment], modules: SimpleNamespace, tmp_path: Path
) -> None:
    understood = set()
    for checkpointing in ("none", "reentrant", "non_reentrant"):
        experiment = compose("framework=llmforge", f"gradient_checkpointing={checkpointing}")
        for attention, liger in product(("sdpa", "eager", "flash_attention_2"), (False, True)):
            asked = replace(experiment, attention=attention, liger_kernel=liger)
            read = as_read(asked, "cuda", "bf16", modules, tmp_path)
            if read is None:
                continue
            understood.add((checkpointing, attention, liger))
            assert read.gradient_checkpointing == (checkpointing == "reentrant")
            assert read.flash_attention_2 == (attention == "flash_attention_2")
            assert read.liger == (asdict(experiment.liger) if liger else None)
    # The schema has on and off for checkpointing and for flash attention.
    assert understood == set(product(("none", "reentrant"), ("sdpa", "flash_attention_2"), (False, True)))


def as_read(experiment: Experiment, device: str, precision: str, modules: SimpleNamespace, folder: Path) -> Any:
    """What the program makes of the file for this experiment; None where it is unsupported."""
    framework, engine = engines.choose(experiment.framework, lambda _: False)
    chosen = replace(experiment, framework=framework)
    (folder / "model").mkdir(exist_ok=True)
    prepared = workload.Workload(*[str(folder / "model")] * 4, num_samples=8, revision=None)
    place = Place(folder, LAUNCHERS, ROOT, sys.executable, device, precision, 1, engine)
    try:
        values = support.values_of(chosen, device, precision, engine)
        support.check_supported(chosen, values, defaults(chosen.mode.name))
        planned = make_plan(chosen, prepared, place)
    except support.Unsupported:
        return None
    planned.config_path.write_text(planned.config_text)
    for name, text in planned.other_files.items():
        (folder / name).write_text(text)
    return modules.schema.read(planned.config_path)
