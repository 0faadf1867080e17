"""Counts are kept by what they depend on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops import cache, cached_count, count


def asked(architecture: dict[str, Any], mode: Mode, sequence_length: int = 8) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "mode": mode,
        "recomputation": "none",
        "attention": "sdpa",
        "batch_size": 1,
        "sequence_length": sequence_length,
    }


def test_a_count_is_read_back_as_it_was_counted(small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path) -> None:
    arguments = asked(small, modes["lora7"])
    first = cached_count(**arguments, folder=tmp_path / "flops")
    assert first == count(**arguments)
    assert cached_count(**arguments, folder=tmp_path / "flops") == first
    assert [file.suffix for file in (tmp_path / "flops").iterdir()] == [".json"]


def test_a_known_count_is_read_and_not_counted_again(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path
) -> None:
    cached_count(**asked(small, modes["full"]), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    kept["count"]["model_flops"] = 12345
    file.write_text(json.dumps(kept))
    assert cached_count(**asked(small, modes["full"]), folder=tmp_path).model_flops == 12345


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 2},
        {"sequence_length": 9},
        {"recomputation": "reentrant"},
        {"attention": "eager"},
        {"mode": Mode(name="lora", rank=4, target_modules=["q_proj"])},
    ],
)
def test_another_workload_is_counted_anew(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path, change: dict[str, Any]
) -> None:
    cached_count(**asked(small, modes["full"]), folder=tmp_path)
    changed = {**asked(small, modes["full"]), **change}
    assert cached_count(**changed, folder=tmp_path) == count(**changed)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_versions_and_other_source_make_another_key(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_count(**asked(small, modes["full"]), folder=tmp_path)
    monkeypatch.setattr(cache, "version", lambda library: "0.0.1")
    cached_count(**asked(small, modes["full"]), folder=tmp_path)
    monkeypatch.setattr(cache, "_source_hash", lambda: "other")
    cached_count(**asked(small, modes["full"]), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_counted_leaves_no_file(small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="beyond the 64 positions"):
        cached_count(**asked(small, modes["full"], sequence_length=100), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_a_known_count_imports_neither_torch_nor_transformers(
    small: dict[str, Any], modes: dict[str, Mode], tmp_path: Path
) -> None:
    expected = cached_count(**asked(small, modes["full"]), folder=tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from mfubench.config import Mode; from mfubench.flops import cached_count\n"
        f"counted = cached_count({small!r}, Mode(name='full'), recomputation='none', attention='sdpa',"
        f" batch_size=1, sequence_length=8, folder=Path({str(tmp_path)!r}))\n"
        "print(counted.hardware_flops, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.split(maxsplit=1) == [str(expected.hardware_flops), "[]\n"]
