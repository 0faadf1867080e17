"""A real Slurm of two nodes on this host: slurmctld, and slurmd twice. It takes no cgroups and no root-only kernel features."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "salloc")
NODES = ("node1", "node2")
CONFIG = """
ClusterName=mfubench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
InactiveLimit=0
KillWait=15
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=main Nodes=node1,node2 Default=YES State=UP
"""


def why_not() -> str | None:
    """Why there can be none here; None if there can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if missing:
        return (
            f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client slurm-wlm-basic-plugins"
        )
    return None if os.getuid() == 0 else "slurmctld and slurmd are only started as root here"


def can_hide() -> bool:
    """Whether a process may have mounts of its own here."""
    argv = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(argv, capture_output=True).returncode == 0


PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs; `environment` is for its clients."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]]

    @property
    def hidden(self) -> Path:
        """A folder of the first node that the second has another one of."""
        return self.folder / "hidden"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *argv: str) -> str:
        """A client's output."""
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def start(self, node: str) -> None:
        """Start a node's slurmd, and wait until it may be used."""
        argv = ["slurmd", "-D", "-N", node]
        if node == NODES[-1] and can_hide():
            argv = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {self.hidden} && exec {' '.join(argv)}"]
        with open(self.folder / f"{node}.out", "ab") as out:
            self.daemons[node] = subprocess.Popen(argv, env=self.environment, stdout=out, stderr=out)
        self.wait_for(node, "idle")

    def wait_for(self, node: str, state: str, within_s: float = 30.0) -> None:
        """Wait until a node is in a state."""
        deadline = time.monotonic() + within_s
        while (now := self.run("sinfo", "-h", "-N", "-n", node, "-o", "%T").strip()) != state:
            assert time.monotonic() < deadline, f"{node} is {now}, not {state}: see {self.folder}"
            time.sleep(0.2)

    def steps(self) -> list[psutil.Process]:
        """The daemons of its steps: the last of each that ends."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if ours and "slurmstepd" in process.name():
                    found.append(process)
        return found

    def allocated(self, argv: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
        """A command in an allocation of both nodes, as a user types it."""
        return subprocess.Popen(
            ["salloc", "--quiet", "--nodes=2", *argv],
            cwd=folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Start the cluster in a folder of its own, and end it."""
    sockets = [socket.create_server(("", 0)) for _ in range(3)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    for part in ("hidden", "state", *(f"spool/{node}" for node in NODES)):
        (folder / part).mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONFIG.format(host=socket.gethostname(), folder=folder, ports=ports))
    slurm = Slurm(folder, {})
    with open(folder / "slurmctld.out", "wb") as out:
        argv = ["slurmctld", "-D", "-c"]
        slurm.daemons["slurmctld"] = subprocess.Popen(argv, env=slurm.environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["scontrol", "ping"], env=slurm.environment, capture_output=True).returncode:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.2)
        for node in NODES:
            slurm.start(node)
        yield slurm
    finally:
        for daemon in slurm.daemons.values():
            daemon.terminate()
        for daemon in slurm.daemons.values():
            daemon.wait(timeout=30)
