"""Nodes that others start: two processes with scratch folders of their own, and a run folder that they share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def start(folder: Path, rank: int, port: int, *overrides: str, prefix: str = "") -> subprocess.Popen[str]:
    """A node: the same command with its own number, cache, locks and working folder."""
    own = folder / f"node{rank}"
    own.mkdir()
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "NODE_RANK": f"{rank}"}
    scratch = {name: str(own) for name in ("MFUBENCH_CACHE", "MFUBENCH_LOCKS", "TMPDIR")}
    nodes = ("cluster=torchrun", "parallelism.num_nodes=2", f"hydra.run.dir={folder / 'run'}")
    return subprocess.Popen(
        [sys.executable, "-m", "mfubench", *nodes, *overrides],
        cwd=own,
        env={**os.environ, **scratch, **{prefix + name: value for name, value in told.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*nodes: subprocess.Popen[str]) -> tuple[list[int], list[str]]:
    """The nodes' exit statuses, and what they said."""
    said = [node.communicate(timeout=600)[1] for node in nodes]
    return [node.returncode for node in nodes], said


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run" / "result.json").read_text()))
