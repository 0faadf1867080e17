"""A file in LLMForge's schema, what it names, and the program that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mfubench.config import Experiment
from mfubench.files.paths import LAUNCHERS
from mfubench.plan.native import EXTRA_STEPS
from mfubench.plan.plan import Plan

DATA = Path(__file__).parents[2] / "data" / "llmforge"
OVERRIDES = (
    "framework=llmforge",
    "model.architecture.hidden_size=32",
    "model.architecture.intermediate_size=48",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.num_attention_heads=4",
    "model.architecture.num_key_value_heads=2",
    "model.architecture.max_position_embeddings=64",
    "sequence_length=32",
    "measurement.warmup_steps=0",
    f"measurement.steps={3 - EXTRA_STEPS}",
    "measurement.profile_steps=0",
)


@pytest.fixture
def finetune() -> Path:
    """The program."""
    return LAUNCHERS / "llmforge" / "finetune.py"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The program's own modules."""
    monkeypatch.syspath_prepend(str(LAUNCHERS / "llmforge"))
    import data
    import fields
    import model
    import schema

    return SimpleNamespace(data=data, model=model, schema=schema, FileError=fields.FileError)


@pytest.fixture
def planned(compose: Callable[..., Experiment], planned: Callable[..., Plan], tmp_path: Path) -> Callable[..., Plan]:
    """Overrides in, the plan of the open stack out, with its files written and the model's weights on the disk."""

    def make(*overrides: str, precision: str = "fp32") -> Plan:
        experiment = compose(*OVERRIDES, f"precision={precision}", "framework.engine=open-stack", *overrides)
        return planned(experiment, tmp_path, precision=precision)

    return make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the published run's files in it: published.yaml, zero_2.json, the samples, an empty model."""
    project = tmp_path / "project"
    shutil.copytree(DATA, project)
    turns = [[{"role": "user", "content": "ba"}, {"role": "assistant", "content": "be " * n}] for n in range(1, 9)]
    (project / "train.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    (project / "model").mkdir()
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def project(folder: Path, planned: Callable[..., Plan]) -> Path:
    """`folder` with a real model."""
    (folder / "model").rmdir()
    (folder / "model").symlink_to(yaml.safe_load(planned().config_text)["model_id"])
    return folder


@pytest.fixture
def changed_file(folder: Path) -> Callable[..., Path]:
    """Fields in, the published file with them changed, or, where None, taken out."""

    def change(**changed: Any) -> Path:
        native = {**yaml.safe_load((folder / "published.yaml").read_text()), **changed}
        path = folder / "changed.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in native.items() if value is not None}))
        return path

    return change
