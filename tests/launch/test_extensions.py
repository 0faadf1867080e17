"""Where operators are compiled: a folder for each environment, unless the user has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfubench.launch import extensions


def test_programs_of_one_environment_share_what_they_compile_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    python, tool, other = (
        extensions.build_environment(f"/p/{name}") for name in ("a/bin/python", "a/bin/tool", "b/bin/tool")
    )
    assert python == tool != other


def test_a_folder_of_the_users_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/mine")
    assert extensions.build_environment("/p/a/bin/python") == {}


def test_a_lock_of_a_run_that_lives_stays_and_one_that_nobody_has_open_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("MFUBENCH_CACHE", str(tmp_path))
    lock = tmp_path / "torch_extensions" / "py" / "operator" / "lock"
    lock.parent.mkdir(parents=True)
    with open(lock, "x"):
        extensions.release(since_s=0.0)
        assert lock.exists()
    extensions.release(since_s=0.0)
    assert not lock.exists()
