"""The disk that a run needs before it is started."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mfubench.launch.supervision import check_room


def test_a_run_that_keeps_traces_needs_room_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 2**20))
    check_room(tmp_path)
    with pytest.raises(OSError, match="less than 640 MiB free on the disk, of which 384 are for traces") as caught:
        check_room(tmp_path, traced_steps=6)
    assert caught.value.errno == errno.ENOSPC  # the command says where runs are written
