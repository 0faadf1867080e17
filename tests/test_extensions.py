"""Where operators are compiled: a folder for each environment, unless the user has one."""

from __future__ import annotations

import pytest

from mfubench.launch import extensions


def test_programs_of_one_environment_share_what_they_compile_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    python, tool, other = (
        extensions.environment(f"/p/{name}") for name in ("a/bin/python", "a/bin/tool", "b/bin/tool")
    )
    assert python == tool != other


def test_a_folder_of_the_users_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/mine")
    assert extensions.environment("/p/a/bin/python") == {}
