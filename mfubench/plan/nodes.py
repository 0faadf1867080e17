"""Find the nodes of a run, and refuse a node that lacks what it needs, before anything is started."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfubench.config import Cluster, Experiment
from mfubench.hardware.machine import Unavailable
from mfubench.hardware.matmul_rates import RunTogether
from mfubench.plan.interpolation import resolve, spliced

NODE = "MFUBENCH_NODE"  # to the probe: the node's name
PORT_OF_A_DRY_RUN = 29500
# Runs on every node: its number, name and host, and each path that isn't there. A folder just made on another node may be
# seen late on a network file system; listing the folder above it looks anew.
LOOK = f"""here="$NODE_RANK ${NODE}"; echo "host $here $(uname -n)"
for path; do
  for second in 1 2 3 4 5; do [ -e "$path" ] && break; ls "$(dirname "$path")" >/dev/null 2>&1; sleep 1; done
  [ -e "$path" ] || echo "lacks $here $path"
done"""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a run, as a process of it knows them. Without arguments: this host alone."""

    head: str | None = None  # address of the first node
    port: int | None = None  # free there
    rank: int | None = None  # of this node, if others start mfubench on every node
    names: tuple[str, ...] = ()  # of all nodes, in their order
    shared: Path | None = None  # the run folder, unless that is this process's own

    @property
    def here(self) -> str | None:
        """The name of the node that measures."""
        return next(iter(self.names), None)

    @property
    def words(self) -> dict[str, Any]:
        """The words that ${run.…} may use; None on one host."""
        return {"head": self.head, "port": self.port, "node_rank": self.rank, "num_nodes": len(self.names) or None}


ONE_HOST = Nodes()


def run_id(folder: Path) -> str:
    """Return a name for this process's run in the folder, unlike that of any other run on the cluster."""
    unique = f"{os.uname().nodename} {os.getpid()} {folder}"
    return f"mfubench-{hashlib.sha256(unique.encode(errors='surrogateescape')).hexdigest()[:12]}"


def node_rank(cluster: Cluster, environment: Mapping[str, str]) -> int | None:
    """Return this node's number if others start mfubench on every node; None if they don't, or don't say it."""
    said = _first(cluster.node_rank, environment)
    return int(said) if said is not None and said.isdecimal() else None


def find_nodes(
    experiment: Experiment,
    folder: Path,
    needs: Sequence[Path],
    environment: Mapping[str, str],
    run_together: RunTogether,
) -> Nodes:
    """Find the nodes of the run in `folder`; every node must have the paths in `needs`.

    Raises Unavailable, which says what is missing, or on which node.
    """
    cluster, number = experiment.cluster, experiment.parallelism.num_nodes
    if not cluster.several:
        return Nodes()
    others, host = bool(cluster.node_rank), os.uname().nodename
    if experiment.dry_run:
        return Nodes(host, PORT_OF_A_DRY_RUN, 0 if others else None, _numbered(number))
    known = {"parallelism": asdict(experiment.parallelism), "run": {"id": run_id(folder)}}
    words = {"per_node": cluster.per_node, "otherwise": cluster.otherwise}
    filled_in = resolve(f"conf/cluster/{cluster.name}.yaml", [words], known)
    if not all(environment.get(name) for name in cluster.requires):
        raise Unavailable(filled_in["otherwise"])
    if not others:
        return _looked_at(spliced(filled_in["per_node"]), [folder, *needs], cluster, number, run_together)
    rank, head, port = (
        node_rank(cluster, environment),
        _first(cluster.head, environment),
        _first(cluster.port, environment),
    )
    if rank is None or head is None or port is None or not port.isdecimal():
        raise Unavailable(filled_in["otherwise"])
    if rank >= number:
        raise Unavailable(f"this is node {rank}, counted from 0, and parallelism.num_nodes={number}")
    return Nodes(head, int(port), rank, _numbered(number), folder)


def _looked_at(
    per_node: list[str], needs: Sequence[Path], cluster: Cluster, number: int, run_together: RunTogether
) -> Nodes:
    """Look at every node, the first of which must be this host: its devices are found and watched from here."""
    try:
        (said,) = run_together([[*per_node, "sh", "-c", LOOK, "sh", *map(str, needs)]], {}, cluster.join_timeout_s)
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"the nodes can't be reached: {str(error).strip().splitlines()[-1]}") from error
    lines = sorted(line.split(maxsplit=3) for line in said.splitlines() if line.startswith(("host ", "lacks ")))
    lacking = [f"{name} lacks {path}" for what, _, name, path in lines if what == "lacks"]
    if lacking:
        raise Unavailable(
            f"every node must see the run folder and what it runs, in the same place: {'; '.join(lacking)}"
        )
    hosts = {int(rank): (name, host) for _, rank, name, host in lines}
    if len(hosts) != number:
        raise Unavailable(f"parallelism.num_nodes={number}, and {len(hosts)} answered")
    first, here = hosts[0][1], os.uname().nodename
    if first != here:
        raise Unavailable(
            f"mfubench runs on {here}, and the first node is {first}, whose devices it finds and watches: start it there; "
            "docs/cluster.md has the commands"
        )
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return Nodes(here, port, None, tuple(hosts[rank][0] for rank in sorted(hosts)))


def _numbered(number: int) -> tuple[str, ...]:
    return tuple(f"node{rank}" for rank in range(number))


def _first(variables: Sequence[str], environment: Mapping[str, str]) -> str | None:
    return next((environment[name] for name in variables if environment.get(name)), None)
