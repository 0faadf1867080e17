"""mfubench is killed, or its terminal closed: nobody is left, and the result is whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_death import DEATHS, Death, die


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.name)
def test_nobody_survives_mfubench_and_the_result_is_whole_or_absent(tmp_path: Path, death: Death) -> None:
    end = die(death, tmp_path)
    assert end.left == []
    assert end.status == death.status
    assert end.tell_a_secret == []
    assert "FAULTS_TOKEN" in (tmp_path / "run" / "framework.log").read_text()  # its environment is there
