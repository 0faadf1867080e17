"""Profiles are kept by what they depend on, which a micro-batch's shape is not among."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops import step
from mfubench.flops.count import profile
from mfubench.flops.step import cached_profile


def asked(architecture: dict[str, Any], mode: Mode) -> dict[str, Any]:
    return {"architecture": architecture, "mode": mode, "recomputation": "none", "attention": "sdpa"}


def test_a_profile_is_read_back_as_it_was_counted(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path
) -> None:
    arguments = asked(small, modes["lora7"])
    first = cached_profile(**arguments, folder=tmp_path / "flops")
    assert first == profile(**arguments)
    assert cached_profile(**arguments, folder=tmp_path / "flops") == first
    assert [file.suffix for file in (tmp_path / "flops").iterdir()] == [".json"]


def test_a_known_profile_is_read_and_not_counted_again(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path
) -> None:
    cached_profile(**asked(small, modes["full"]), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    kept["profile"]["parameters"] = 12345
    file.write_text(json.dumps(kept))
    assert cached_profile(**asked(small, modes["full"]), folder=tmp_path).parameters == 12345


@pytest.mark.parametrize(
    "change",
    [
        {"recomputation": "reentrant"},
        {"attention": "eager"},
        {"mode": Mode(name="lora", rank=4, target_modules=["q_proj"])},
    ],
)
def test_another_workload_is_counted_anew(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path, change: dict[str, Any]
) -> None:
    cached_profile(**asked(small, modes["full"]), folder=tmp_path)
    changed = {**asked(small, modes["full"]), **change}
    assert cached_profile(**changed, folder=tmp_path) == profile(**changed)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_versions_and_other_source_make_another_key(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_profile(**asked(small, modes["full"]), folder=tmp_path)
    monkeypatch.setattr(step, "version", lambda library: "0.0.1")
    cached_profile(**asked(small, modes["full"]), folder=tmp_path)
    monkeypatch.setattr(step, "_source_hash", lambda: "other")
    cached_profile(**asked(small, modes["full"]), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_counted_leaves_no_file(small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="transformers has no causal language model"):
        cached_profile(**asked({**small, "model_type": "lama"}, modes["full"]), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_a_known_profile_imports_neither_torch_nor_transformers(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path
) -> None:
    expected = cached_profile(**asked(small, modes["full"]), folder=tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from mfubench.config import Mode; from mfubench.flops.step import cached_profile\n"
        f"counted = cached_profile({small!r}, Mode(name='full'), recomputation='none', attention='sdpa',"
        f" folder=Path({str(tmp_path)!r}))\n"
        "print(counted.of(3, 20).hardware_flops, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.split(maxsplit=1) == [str(expected.of(3, 20).hardware_flops), "[]\n"]


def test_what_cannot_be_cached_is_counted_all_the_same(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("no folder")
    counted = cached_profile(**asked(small, modes["full"]), folder=tmp_path / "home" / ".cache")
    assert counted == profile(**asked(small, modes["full"]))
