"""A trainer that goes wrong in one way. Plain PyTorch where it trains; knows nothing of mfubench.

python trainer.py FAULT CONFIG.yaml; under torchrun one of several ranks, of which rank 1 goes wrong.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STEPS_BEFORE = 3
FOR_EVER_S = 86_400
SLEEPER = ("-c", f"import time; time.sleep({FOR_EVER_S})")
OOM_GROUP = "FAULTS_MEMORY_GROUP"  # a cgroup with a limit
RANK = int(os.environ.get("RANK", "0"))
FAULTY_RANK = int(os.environ.get("WORLD_SIZE", "1")) - 1


def train(steps: int, leaves_after: int | None = None) -> None:
    """So many steps of a small model, averaged over the ranks; the faulty rank leaves the others alone after some."""
    import torch

    torch.set_num_threads(1)
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Embedding(32, 8), torch.nn.Linear(8, 32))
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters())
    for step in range(steps):
        if RANK == FAULTY_RANK and step == leaves_after:
            return
        model(torch.zeros(2, 16, dtype=torch.long)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def memory_of_the_device() -> None:
    """The text is the real one; there may be no device here."""
    import torch

    train(STEPS_BEFORE)
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB"
    )


def memory_of_the_host() -> None:
    """More than any machine has."""
    import torch

    train(STEPS_BEFORE)
    torch.empty(2**50)


def killed_by_the_kernel() -> None:
    """It goes on taking memory in a group that may have little."""
    (Path(os.environ[OOM_GROUP]) / "cgroup.procs").write_text(str(os.getpid()))
    held = []
    while True:
        held.append(b"x" * 2**20)
        time.sleep(0.02)


def become_deaf_beside_a_daemon(environment: dict[str, str]) -> None:
    """Neither it nor a daemon of it, with that environment, hears SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, *SLEEPER], environment)
        os._exit(0)
    os.wait()


def deaf_and_daemonised() -> None:
    """Its daemon has nothing in its environment; it trains, and then hangs."""
    become_deaf_beside_a_daemon({})
    train(STEPS_BEFORE + 1)
    time.sleep(FOR_EVER_S)


def hangs_beside_a_daemon() -> None:
    """It prints its environment, and says in its folder that it hangs."""
    print(dict(os.environ), flush=True)
    become_deaf_beside_a_daemon(dict(os.environ))
    train(STEPS_BEFORE + 1)
    Path("hangs").touch()
    time.sleep(FOR_EVER_S)


def leader_dies_first() -> None:
    """Its ranks have sessions of their own."""
    for _ in range(2):
        subprocess.Popen([sys.executable, *SLEEPER], start_new_session=True)
    sys.exit("the launcher is lost")


def flood() -> None:
    """A quarter of a gigabyte of output."""
    for _ in range(64):
        print("a warning " * (4 * 2**20 // 10), flush=True)
        time.sleep(0.03)
    sys.exit("KeyError: that is all")


def nothing() -> None:
    """It ends well and has not trained."""


def after_all_steps() -> None:
    """It does all that is asked, and fails then."""
    import yaml

    sys.path.insert(0, str(Path(__file__).parent.parent / "trainers"))
    import other_work

    other_work.train(yaml.safe_load(Path(sys.argv[2]).read_text()), "nothing else")
    os._exit(7)


def rank_killed() -> None:
    """One rank dies of SIGKILL, the others wait for it."""
    train(100, leaves_after=STEPS_BEFORE)
    os.kill(os.getpid(), signal.SIGKILL)


def rank_crashes() -> None:
    """One rank dies of a null pointer."""
    train(100, leaves_after=STEPS_BEFORE)
    ctypes.string_at(0)


def rank_raises() -> None:
    """One rank has an exception of its own. It ends at once: gloo's threads may turn a slow end into an abort."""
    train(100, leaves_after=STEPS_BEFORE)
    try:
        raise ValueError("a bad sample on this rank")
    except ValueError:
        sys.excepthook(*sys.exc_info())  # as PyTorch has it, with the rank in front
        sys.stderr.flush()
        os._exit(1)


def collective_hangs() -> None:
    """One rank never comes to the collective in which the others wait for it."""
    train(100, leaves_after=STEPS_BEFORE + 1)
    time.sleep(FOR_EVER_S)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
