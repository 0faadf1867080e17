"""Real processes, started and ended: how each end is told, and that none is left."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from mfubench import launch
from mfubench.plan import Plan


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


def never() -> bool:
    return False


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
    assert (outcome.ended, outcome.returncode, outcome.out_of_memory) == ("itself", 7, False)
    assert sorted(outcome.log_tail) == ["one", "two"]
    assert (tmp_path / "native.yaml").read_text() == "a: 1\n"


def test_a_program_is_stopped_when_enough_is_recorded(tmp_path: Path) -> None:
    looks: list[float] = []

    def enough() -> bool:
        looks.append(time.monotonic())
        return len(looks) >= 3

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


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)  # a rank in a session of its own
if os.fork() == 0:  # a grandchild that nobody waits for
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_no_process_survives_that_ignores_sigterm_or_leaves_the_session(tmp_path: Path) -> None:
    seen: list[int] = []

    def enough() -> bool:
        seen.append(len(left_of(tmp_path)))
        return seen[-1] >= 3 or len(seen) > 15

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


@pytest.mark.parametrize(
    "text",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    ],
)
def test_out_of_memory_is_told_by_the_log(tmp_path: Path, text: str) -> None:
    outcome = launch.launch(plan_of(tmp_path, f"import sys; print({text!r}); sys.exit(1)"), never)
    assert outcome.out_of_memory


def test_what_a_rank_said_is_found_before_its_launchers_report(tmp_path: Path) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    (tmp_path / "rank.py").write_text(f"import os\nos.write(2, {words + chr(10)!r}.encode())\nraise SystemExit(1)")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "rank.py"))
    plan = replace(plan_of(tmp_path, ""), command=(sys.executable, *launcher))
    outcome = launch.launch(plan, never)
    assert outcome.out_of_memory
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


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_us_ends_the_run_and_all_its_processes(tmp_path: Path, signum: signal.Signals) -> None:
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signum))
    timer.start()
    outcome = launch.launch(plan_of(tmp_path, "import time; time.sleep(60)"), never)
    timer.join()
    assert outcome.ended == "interrupted"
    assert left_of(tmp_path) == []


def test_helpers_run_at_the_same_time_and_return_what_they_print() -> None:
    command = [sys.executable, "-c", "import os, time; time.sleep(1); print(os.environ['WORD'])"]
    started = time.monotonic()
    assert launch.run_together([command, command], {"WORD": "hello"}, 30) == ["hello\n", "hello\n"]
    assert time.monotonic() - started < 1.9


def test_a_helper_that_fails_is_an_error_with_its_words() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        launch.run_together([[sys.executable, "-c", "raise SystemExit('no such luck')"]], {}, 30)
    with pytest.raises(RuntimeError, match=r"not done after 0\.5 s"):
        launch.run_together([[sys.executable, "-c", "import time; time.sleep(60)"]], {}, 0.5)


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
        launch.launch(plan_of(folder, program), lambda log=log: log.exists() and log.read_text() != "")  # type: ignore[misc]
        assert log.read_text() == "mine\n"
