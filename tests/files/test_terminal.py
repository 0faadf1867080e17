"""Every command begins alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = (
    "mfubench dry_run=true",
    "mfubench.flops",
    "mfubench.report x",
    "mfubench.tracking x",
    "mfubench.doctor",
    "mfubench.watch -- ls",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_in_a_deleted_folder_a_command_ends_with_one_line(tmp_path: Path, command: str) -> None:
    gone = f'mkdir "{tmp_path}/gone" && cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && '
    done = subprocess.run(["sh", "-c", f'{gone} exec "{sys.executable}" -m {command}'], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("mfubench: the working folder was deleted") and done.stderr.count("\n") == 1
