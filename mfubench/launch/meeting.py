"""The meeting of the nodes of a run, if others start mfubench on each: files in `nodes/` of the shared run folder.

The first node waits for a file of each other node, with the reason if that can't take part. Then it says `go`, and `end`
once the run is over; conf/cluster/torchrun.yaml does that, too, so that it is said even if mfubench is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mfubench.config import Cluster
from mfubench.files.whole import write_whole
from mfubench.hardware.machine import Unavailable
from mfubench.plan.nodes import Nodes

LOOK_EVERY_S = 0.5
END_SAID_WITHIN_S = 60.0  # after the ranks have ended: the first node has ended its own before


def folder_of(shared: Path, rank: int) -> Path:
    """Return the folder of another node's own files: its native configuration, its log."""
    return shared / "nodes" / str(rank)


def gather(nodes: Nodes, within_s: float) -> None:
    """Wait for the nodes that others start, and let them go. Raises Unavailable if one doesn't come, or can't take part."""
    shared = nodes.shared
    if shared is None:
        return
    places = {rank: folder_of(shared, rank) / "here" for rank in range(1, len(nodes.names))}
    if not _comes(lambda: all(place.exists() for place in places.values()), within_s):
        absent = ", ".join(str(rank) for rank, place in places.items() if not place.exists())
        raise Unavailable(
            f"node {absent} did not come to {shared} within {within_s:g} s: every node must see this folder in the same place, "
            "and the same command must be started on each; cluster.join_timeout_s allows more"
        )
    problems = [f"node {rank}: {reason}" for rank, place in places.items() if (reason := place.read_text())]
    if problems:
        raise Unavailable("; ".join(problems))
    write_whole(shared / "nodes" / "go", "")


def join(shared: Path, rank: int, within_s: float) -> bool:
    """Tell the first node that this one is here, and wait for its `go`; False if the run is over already.

    Raises Unavailable if the first node says nothing.
    """
    tell(shared, rank, "")
    if not _comes(lambda: is_over(shared) or (shared / "nodes" / "go").exists(), within_s):
        raise Unavailable(
            f"the first node said nothing in {shared} within {within_s:g} s: do all nodes share this folder?"
        )
    return not is_over(shared)


def tell(shared: Path, rank: int, problem: str) -> None:
    """Tell the first node that this one is here, or why it can't take part."""
    write_whole(folder_of(shared, rank) / "here", problem)


@contextmanager
def over_at_the_end(shared: Path, cluster: Cluster) -> Iterator[None]:
    """At the end of the block, however it ends, tell the nodes that others have started that the run is over."""
    try:
        yield
    finally:
        if cluster.node_rank:
            (shared / "nodes").mkdir(exist_ok=True)
            write_whole(shared / "nodes" / "end", "")


def is_over(shared: Path) -> bool:
    """True if the first node has said that the run is over."""
    return (shared / "nodes" / "end").exists()


def wait_for_the_end(shared: Path) -> bool:
    """Wait until the first node says that the run is over; False if it doesn't."""
    return _comes(lambda: is_over(shared), END_SAID_WITHIN_S)


def _comes(true: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (now := true()) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    return now
