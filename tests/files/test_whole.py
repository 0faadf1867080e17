"""Files and folders are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mfubench.files.whole import make_whole, write_whole


def test_a_file_is_written_in_the_place_of_the_one_before(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "one")
    write_whole(tmp_path / "a.json", "two é")
    assert (tmp_path / "a.json").read_bytes() == "two é".encode()
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("fails", ["os.fsync", "os.replace"])
def test_a_full_disk_leaves_the_file_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    write_whole(tmp_path / "a.json", "one")

    def full(*of: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "one" and os.listdir(tmp_path) == ["a.json"]


def test_several_writers_of_one_file_leave_the_text_of_one_of_them(tmp_path: Path) -> None:
    texts = [letter * 100_000 for letter in "abcdefgh"]
    writers = [threading.Thread(target=write_whole, args=(tmp_path / "a", text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "a").read_text() in texts and os.listdir(tmp_path) == ["a"]


def test_a_folder_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    make_whole(tmp_path / "made", lambda folder: (folder / "a").write_text("one") and None)
    make_whole(tmp_path / "made", lambda folder: pytest.fail("made again"))
    assert (tmp_path / "made" / "a").read_text() == "one"


def test_a_folder_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        make_whole(tmp_path / "made", half)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    def second(folder: Path) -> None:
        (folder / "a").write_text("second")
        make_whole(tmp_path / "made", lambda first: (first / "a").write_text("first") and None)

    make_whole(tmp_path / "made", second)
    assert (tmp_path / "made" / "a").read_text() == "first" and os.listdir(tmp_path) == ["made"]


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_is_making_is_not(tmp_path: Path) -> None:
    half_made = "from pathlib import Path; import os, sys; from mfubench.files.whole import make_whole; " + (
        "make_whole(Path(sys.argv[1]), lambda folder: (folder / 'a').write_text('half') and os.kill(os.getpid(), 9))"
    )
    killed = subprocess.run([sys.executable, "-c", half_made, str(tmp_path / "killed")], check=False)
    (left,) = tmp_path.iterdir()
    assert killed.returncode == -9 and (left / "killed" / "a").read_text() == "half"

    def living(folder: Path) -> None:
        (folder / "a").write_text("whole")
        make_whole(tmp_path / "other", lambda folder: None)
        assert (folder / "a").read_text() == "whole"

    assert make_whole(tmp_path / "made", living)
    assert sorted(os.listdir(tmp_path)) == ["made", "other"]
