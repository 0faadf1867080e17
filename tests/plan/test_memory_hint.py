"""Settings that fit on the device, named before the start of a run that doesn't. Meta tensors only."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mfubench.config import Experiment
from mfubench.launch.programs import responds
from mfubench.plan.memory_hint import hint_at_memory
from mfubench.plan.prepare import prepare, resolve

EIGHT_B = ("dry_run=true", "hardware=h100-sxm", "model=llama-3.1-8b", "gradient_checkpointing=reentrant")


@pytest.fixture
def hint(compose: Callable[..., Experiment], tmp_path: Path) -> Callable[..., str]:
    """Overrides in; what is printed before the start out."""

    def printed(*overrides: str) -> str:
        said = Console(file=StringIO(), width=1000)
        hint_at_memory(prepare(resolve(compose(*EIGHT_B, *overrides), responds), tmp_path, said), said)
        assert isinstance(said.file, StringIO)
        return said.file.getvalue().splitlines()[-1] if "by the estimate" in said.file.getvalue() else ""

    return printed


def test_full_in_bf16_that_does_not_fit_names_bf16_pure_and_lora(hint: Callable[..., str]) -> None:
    # 8,030,261,248 parameters: weights, gradients and two moments of 4 bytes are 119.66 GiB, of 2 bytes 59.83. An H100 has
    # 80e9 bytes, 74.51 GiB. The batch changes the activations only, which would not help.
    said = hint("precision=bf16")
    assert said.startswith("by the estimate a device needs 119.7 GiB, and it has 74.5")
    (pure,) = (part for part in said.split(" or ") if "precision=bf16_pure" in part)
    assert 59.8 <= float(pure.rpartition("(")[2].removesuffix(" GiB)")) < 65
    assert "mode=lora (" in said and "batch_size" not in said


def test_what_fits_has_no_hint(hint: Callable[..., str]) -> None:
    assert hint("precision=bf16_pure") == "" and hint("mode=lora", "precision=bf16") == ""


def test_a_batch_that_does_not_fit_names_a_smaller_one_and_nothing_that_the_framework_cannot_do(
    hint: Callable[..., str],
) -> None:
    said = hint("mode=lora", "precision=bf16", "batch_size=64", "sequence_length=4096", "framework=trl")
    assert "batch_size=1 (" in said and "bf16_pure" not in said  # PEFT holds LoRA's matrices in fp32


def test_changes_that_only_fit_together_are_named_together(hint: Callable[..., str]) -> None:
    batch = ("precision=bf16", "gradient_checkpointing=none", "batch_size=4", "sequence_length=2048", "mode=full")
    assert "what fits is gradient_checkpointing=non_reentrant batch_size=1 precision=bf16_pure (" in hint(*batch)


def test_a_model_that_nothing_makes_fit_says_so(hint: Callable[..., str]) -> None:
    # 24 of 70B's 80 layers: 22.6e9 parameters, of which an L4's 24 GB would hold half in bf16.
    said = hint("model=llama-3.1-70b", "model.architecture.num_hidden_layers=24", "precision=bf16", "hardware=l4")
    assert said.endswith("what fits is no change of precision, checkpointing, batch or mode")
