"""Real processes, started and ended: how each end is told, and that none is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from mfubench.launch import programs, supervision
from mfubench.launch import start as launch
from mfubench.launch.outcome import Ending
from mfubench.measure.status import judge
from mfubench.plan.plan import Plan

STOPPED = Ending("stopped")


def plan_of(folder: Path, program: str, timeout_s: float = 60) -> Plan:
    """A plan that runs a Python program."""
    return Plan(
        command=(sys.executable, "-c", program),
        environment={"OF_THE_PLAN": "1"},
        config_path=folder / "native.yaml",
        config_text="a: 1\n",
        other_files={"engine.json": "{}"},
        folder=folder,
        num_ranks=1,
        max_steps=1,
        periods=1,
        timeout_s=timeout_s,
    )


def never() -> None:
    return None


def left_of(folder: Path) -> list[psutil.Process]:
    """Processes that still work in the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_S", 1.0)


def test_a_program_that_ends_by_itself_keeps_its_exit_status_and_its_last_lines(tmp_path: Path) -> None:
    outcome = launch.launch(
        plan_of(tmp_path, "import sys; print('one'); print('two', file=sys.stderr); sys.exit(7)"), never
    )
    assert (outcome.ended, outcome.returncode, outcome.out_of_memory) == ("itself", 7, None)
    assert sorted(outcome.log_tail) == ["one", "two"]
    assert (tmp_path / "native.yaml").read_text() == "a: 1\n"


def test_a_program_is_stopped_when_enough_is_recorded(tmp_path: Path) -> None:
    looks: list[float] = []

    def enough() -> Ending | None:
        looks.append(time.monotonic())
        return STOPPED if len(looks) >= 3 else None

    outcome = launch.launch(plan_of(tmp_path, "import time; time.sleep(60)"), enough)
    assert outcome.ended == "stopped"
    assert outcome.wall_s < 10
    assert all(later - earlier > 0.95 for earlier, later in pairwise(looks))  # once a second
    assert left_of(tmp_path) == []


def test_a_program_that_hangs_is_ended_at_the_timeout(tmp_path: Path) -> None:
    outcome = launch.launch(plan_of(tmp_path, "import time; time.sleep(60)", timeout_s=1.5), never)
    assert outcome.ended == "timeout"
    assert outcome.wall_s < 10
    assert left_of(tmp_path) == []


def test_a_program_that_is_not_there_is_not_installed(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, ""), command=("/nowhere/bin/python", "train.py"))
    outcome = launch.launch(plan, never)
    assert (outcome.ended, outcome.returncode) == ("not_installed", None)
    assert "/nowhere/bin/python" in outcome.log_tail[0]


def test_a_program_that_the_kernel_refuses_to_start_has_failed_and_is_not_missing(tmp_path: Path) -> None:
    outcome = launch.launch(replace(plan_of(tmp_path, ""), command=(sys.executable, "x" * 2**20)), never)
    assert (outcome.ended, outcome.returncode) == ("itself", None)
    given = judge(outcome, False, 0, 1, ())
    assert given.status == "failed"
    assert given.reason is not None and given.reason.startswith("it couldn't be started: [Errno 7]")


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)  # a rank in a session of its own
if os.fork() == 0:  # a grandchild that nobody waits for
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", deaf], {})  # and that nothing in its environment tells of
    os._exit(0)
time.sleep(60)
"""


def test_no_process_survives_that_ignores_sigterm_or_leaves_the_session(tmp_path: Path) -> None:
    seen: list[int] = []

    def enough() -> Ending | None:
        seen.append(len(left_of(tmp_path)))
        return STOPPED if seen[-1] >= 3 or len(seen) > 15 else None

    outcome = launch.launch(plan_of(tmp_path, STUBBORN), enough)
    assert seen[-1] >= 3, "the program did not start its children"
    assert outcome.ended == "stopped"
    assert left_of(tmp_path) == []


def test_children_left_behind_by_a_leader_that_died_are_ended(tmp_path: Path) -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    program = f"import subprocess, sys; subprocess.Popen({sleeper}, start_new_session=True)"
    outcome = launch.launch(plan_of(tmp_path, program), never)
    assert (outcome.ended, outcome.returncode) == ("itself", 0)
    assert left_of(tmp_path) == []


def test_what_a_rank_said_is_found_before_its_launchers_report(tmp_path: Path) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    (tmp_path / "rank.py").write_text(f"import os\nos.write(2, {words + chr(10)!r}.encode())\nraise SystemExit(1)")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "rank.py"))
    plan = replace(plan_of(tmp_path, ""), command=(sys.executable, *launcher))
    outcome = launch.launch(plan, never)
    assert outcome.out_of_memory == "device"
    assert outcome.last_words == words


def test_that_a_launchers_command_failed_is_not_why(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; print('ValueError: no such key: lora_ranks'); subprocess.run(['false'], check=True)"
    )
    outcome = launch.launch(plan_of(tmp_path, program), never)
    assert outcome.last_words == "ValueError: no such key: lora_ranks"


def test_the_child_gets_the_plans_environment_and_none_of_wandbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_SERVICE", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(launch.launch(plan_of(tmp_path, program), never).log_tail[-1])
    assert "secret" not in seen.values()
    assert seen["WANDB_MODE"] == "disabled"
    assert seen["OF_THE_PLAN"] == "1"
    assert seen["PYTHONPATH"].split(os.pathsep) == [str(launch.PROBE_SITE), "/somewhere"]
    assert seen["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)  # its own programs come first
    assert seen["MFUBENCH_RECORDS"] == str(tmp_path / "records")


def test_what_a_flood_of_output_leaves_on_the_disk_is_its_beginning_and_its_end(tmp_path: Path) -> None:
    program = """
import time
print("first")
for _ in range(6):
    print("flood " * 4_000_000, flush=True)
    time.sleep(0.3)
print("last")
"""
    outcome = launch.launch(plan_of(tmp_path, program), never)
    text = (tmp_path / "framework.log").read_text()
    assert text.startswith("first\n") and text.endswith("last\n")
    assert "bytes of output are left out here" in text
    assert len(text) <= supervision.MAX_LOG_BYTES and outcome.log_bytes_left_out > supervision.MAX_LOG_BYTES
    assert outcome.log_tail[-1].endswith("last")  # what was written while the middle was cut may lack its end


def test_what_the_processes_hold_of_the_hosts_memory_is_known(tmp_path: Path) -> None:
    program = "import subprocess, sys, time; hold = 'x = b\"x\" * 300_000_000; import time; time.sleep(2.5)'\n"
    program += "subprocess.run([sys.executable, '-c', hold])"
    memory = launch.launch(plan_of(tmp_path, program), never).memory
    assert memory is not None
    assert 300_000_000 <= memory.resident_bytes_max < 600_000_000
    assert 0 < memory.host_available_bytes_min < psutil.virtual_memory().total


def test_a_disk_without_room_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FREE_TO_START_BYTES", 2**62)
    with pytest.raises(OSError, match="no run is started with less than"):
        launch.launch(plan_of(tmp_path, ""), never)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here: that takes root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_run_that_fills_the_disk_is_ended_while_there_is_room_for_its_result(small_disk: Path) -> None:
    program = """
import time
with open("scratch/checkpoint", "wb", buffering=0) as file:
    for _ in range(600):
        file.write(bytes(2**20))
        time.sleep(0.01)
"""
    outcome = launch.launch(plan_of(small_disk, program), never)
    assert (outcome.ended, outcome.why) == ("disk_full", "less than 64 MiB were left on the disk")
    assert (small_disk / "framework.log").read_text() == ""  # it was not told so by the disk itself
    assert left_of(small_disk) == []


def test_children_that_were_there_before_are_none_of_the_run(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.DEVNULL) as other:
        assert launch.launch(plan_of(tmp_path, ""), never).ended == "itself"
        assert other.poll() is None
        other.kill()


def test_a_mistake_while_looking_leaves_no_process_either(tmp_path: Path) -> None:
    def poll() -> Ending | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        launch.launch(plan_of(tmp_path, "import time; time.sleep(60)"), poll)
    assert left_of(tmp_path) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_us_ends_the_run_and_all_its_processes(tmp_path: Path, signum: signal.Signals) -> None:
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signum))
    timer.start()
    outcome = launch.launch(plan_of(tmp_path, "import time; time.sleep(60)"), never)
    timer.join()
    assert outcome.ended == "interrupted"
    assert left_of(tmp_path) == []


def test_helpers_run_at_the_same_time_and_return_what_they_print(tmp_path: Path) -> None:
    meet = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).touch()
while not pathlib.Path(sys.argv[2]).exists():  # the other one
    time.sleep(0.01)
print(os.environ["WORD"])
"""
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    commands = [[sys.executable, "-c", meet, one, other], [sys.executable, "-c", meet, other, one]]
    assert programs.run_together(commands, {"WORD": "hello"}, 30) == ["hello\n", "hello\n"]


def test_a_helper_that_fails_is_an_error_with_its_words() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        programs.run_together([[sys.executable, "-c", "raise SystemExit('no such luck')"]], {}, 30)
    with pytest.raises(RuntimeError, match=r"not done after 0\.5 s"):
        programs.run_together([[sys.executable, "-c", "import time; time.sleep(60)"]], {}, 0.5)


def test_a_run_that_is_ended_while_it_compiles_leaves_no_lock_for_the_next(tmp_path: Path) -> None:
    """PyTorch's own lock around a compilation, as a real extension takes it; the next run would wait for it for ever."""
    program = """
import os, pathlib, time
from torch.utils.file_baton import FileBaton
folder = pathlib.Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "py" / "operator"
folder.mkdir(parents=True, exist_ok=True)
baton = FileBaton(str(folder / "lock"))
print("mine" if baton.try_acquire() else "waiting", flush=True)
time.sleep(60)
"""
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        log = folder / "framework.log"
        launch.launch(plan_of(folder, program), lambda log=log: STOPPED if log.read_text() else None)  # type: ignore[misc]
        assert log.read_text() == "mine\n"
