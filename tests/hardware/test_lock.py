"""Two runs on one device: the second one waits, and says for whom."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mfubench.hardware.lock import exclusive
from mfubench.hardware.machine import Machine

CPU = Machine("cpu", "Some CPU", 2, 2, True, None, None)
GPUS = replace(CPU, device="cuda", num_devices=3, uuids=("GPU-c", "GPU-a", "GPU-b"))
HOLDER = """
import sys, time
from pathlib import Path
from rich.console import Console
sys.path.insert(0, {tests!r})
from test_lock import CPU
from mfubench.hardware.lock import exclusive
with exclusive(CPU, 1, Path("/some/run"), Console(stderr=True, width=300)):
    print("mine", flush=True)
    {then}
print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MFUBENCH_LOCKS", str(tmp_path / "locks"))


def start(then: str) -> subprocess.Popen[str]:
    """Another process that takes the CPU's lock, prints `mine`, and goes on with `then`."""
    program = HOLDER.format(tests=str(Path(__file__).parent), then=then)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def says(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def hears(process: subprocess.Popen[str]) -> str:
    """Its next line on stderr."""
    assert process.stderr is not None
    return process.stderr.readline().strip()


def test_the_second_waits_says_for_whom_and_goes_on_when_the_first_is_done() -> None:
    first = start("sys.stdin.readline()")
    assert says(first) == "mine"
    second = start("pass")
    waiting = hears(second)
    assert waiting.startswith(f"waiting for cpu: process {first.pid}, since ") and "/some/run" in waiting
    assert "Ctrl-C" in waiting
    assert first.stdin is not None
    first.stdin.close()
    assert says(first) == "done"
    assert (says(second), says(second)) == ("mine", "done")
    assert (first.wait(60), second.wait(60)) == (0, 0)


def test_a_killed_holder_holds_nothing_though_what_it_started_lives_on() -> None:
    first = start(
        "import subprocess; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); time.sleep(60)"
    )
    assert says(first) == "mine"
    child = int(says(first))
    first.kill()
    first.wait()
    try:
        second = start("pass")
        assert says(second) == "mine"
        assert second.wait(60) == 0
        os.kill(child, 0)  # it is alive
    finally:
        os.kill(child, signal.SIGKILL)


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    with exclusive(CPU, 1, tmp_path, Console(file=StringIO())):
        second = start("pass")
        assert "waiting for cpu" in hears(second)
        second.send_signal(signal.SIGINT)
        assert second.wait(60) != 0
        assert says(second) == ""


def test_each_gpu_has_a_lock_and_a_run_takes_those_that_it_uses(tmp_path: Path) -> None:
    with exclusive(GPUS, 2, tmp_path, Console(file=StringIO())):
        locks = {path.stem for path in (tmp_path / "locks").iterdir()}
        assert locks == {"GPU-a", "GPU-c"}
        with exclusive(replace(GPUS, uuids=("GPU-b",)), 1, tmp_path, Console(file=StringIO())):
            pass
        with exclusive(CPU, 1, tmp_path, Console(file=StringIO())):
            pass


def test_every_user_may_take_a_lock_that_another_one_made(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with exclusive(CPU, 1, tmp_path, Console(file=StringIO())):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "locks" / "cpu.lock").stat().st_mode & 0o777 == 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of other users")
@pytest.mark.parametrize("owner_of_folder", [12001, 12002])
def test_a_lock_is_taken_though_its_file_is_neither_this_users_nor_the_folders_owners(
    tmp_path: Path, owner_of_folder: int
) -> None:
    with exclusive(CPU, 1, tmp_path, Console(file=StringIO())):
        pass
    os.chown(tmp_path / "locks", owner_of_folder, -1)
    os.chown(tmp_path / "locks" / "cpu.lock", 12001, -1)
    output = StringIO()
    with exclusive(CPU, 1, tmp_path, Console(file=output)):
        second = start("pass")
        assert hears(second).startswith(f"waiting for cpu: process {os.getpid()}, ")
    assert second.wait(60) == 0
    assert output.getvalue() == ""


def test_a_symbolic_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "locks" / "cpu.lock").symlink_to(tmp_path / "theirs")
    output = StringIO()
    with exclusive(CPU, 1, tmp_path, Console(file=output, width=300)):
        pass
    assert "can't be locked" in output.getvalue()
    assert (tmp_path / "theirs").read_text() == "kept"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": "\\u001b[2J", "since": "[bold]", "folder": "x"}']
)
def test_what_a_holder_says_of_itself_may_be_anything(tmp_path: Path, text: str) -> None:
    with exclusive(CPU, 1, tmp_path, Console(file=StringIO())):
        (tmp_path / "locks" / "cpu.lock").write_text(text)
        second = start("pass")
        waiting = hears(second)
        second.terminate()
        second.wait()
    assert waiting.startswith("waiting for cpu: ") and waiting.isprintable()


def test_a_place_where_nothing_can_be_locked_is_said_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MFUBENCH_LOCKS", str(tmp_path / "file" / "locks"))
    output = StringIO()
    with exclusive(CPU, 1, tmp_path, Console(file=output, width=300)):
        pass
    assert "can't be locked" in output.getvalue()


def test_a_lock_holds_where_no_note_can_be_written(tmp_path: Path) -> None:
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # as on a full disk
    try:
        with exclusive(CPU, 1, tmp_path, Console(file=StringIO())):
            second = start("pass")
            waiting = hears(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert waiting.startswith("waiting for cpu: another mfubench has it")
    assert second.wait(60) == 0


@pytest.mark.parametrize("launcher", ["JoblibLauncher", "LocalLauncher", "RayLauncher", "SlurmLauncher"])
def test_launchers_that_run_jobs_side_by_side_or_elsewhere_are_refused(
    launcher: str, compose_sweep: Callable[..., object]
) -> None:
    from mfubench.config import ConfigError

    with pytest.raises(ConfigError, match="side by side") as caught:
        compose_sweep(launcher)
    assert caught.value.instead == "hydra/launcher=basic"
    assert caught.value.expected == "basic, or slurm: an allocation for each job"
    argv = ["-m", "hydra/launcher=other", "batch_size=1,2"]
    assert caught.value.screen(argv).endswith("python -m mfubench -m batch_size=1,2 hydra/launcher=basic")


@pytest.fixture
def compose_sweep() -> Callable[[str], object]:
    """A launcher's class in; what the command line of a sweep that it would launch gives."""
    from hydra.core.config_store import ConfigStore

    from mfubench.config.compose import check_command_line, store_schema

    def composed(launcher: str) -> object:
        store_schema()
        node = {"_target_": f"hydra_plugins.some_launcher.{launcher}"}
        ConfigStore.instance().store(group="hydra/launcher", name="other", node=node, provider="a plugin")
        return check_command_line(["-m", "hydra/launcher=other", "batch_size=1,2"])

    return composed
