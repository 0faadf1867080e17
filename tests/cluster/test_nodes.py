"""The nodes of a run as data: what is planned for each, and what is refused before anything is started."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import check_command_line, store_schema
from mfubench.config.validate import validate
from mfubench.hardware.machine import Machine, Unavailable
from mfubench.launch.outcome import Outcome, with_cause
from mfubench.plan import support
from mfubench.plan.nodes import LOOK, NODE, Nodes, find_nodes, node_rank, run_id
from mfubench.plan.plan import Plan

SIXTEEN = ("parallelism=zero2", "parallelism.num_nodes=2", "parallelism.num_devices=16")
HERE = os.uname().nodename
TOLD = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400", "NODE_RANK": "1"}
Compose = Callable[..., Experiment]


def answer(text: str) -> Callable[[Sequence[Sequence[str]], Mapping[str, str], float], list[str]]:
    """Nodes that say this when they are looked at."""
    return lambda commands, environment, timeout_s: [text]


def found(experiment: Experiment, said: str = "", **environment: str) -> Nodes:
    return find_nodes(experiment, Path("/shared/run"), [Path("/env/python")], environment, answer(said))


def test_one_host_is_started_as_ever(compose: Compose, planned: Callable[..., Plan], tmp_path: Path) -> None:
    plan = planned(compose("parallelism=ddp"), tmp_path)
    assert plan.command[1:6] == (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--monitor_interval=1",
        "--nproc_per_node=2",
    )
    assert (plan.per_node, plan.end, plan.records) == ((), None, tmp_path / "records")
    assert found(compose("parallelism=ddp")) == Nodes()


def test_each_of_two_nodes_starts_half_of_the_ranks(
    compose: Compose, planned: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = planned(compose("cluster=slurm", *SIXTEEN), tmp_path)
    assert plan.per_node[:2] == ("srun", "--overlap") and {"--nodes=2", "--ntasks-per-node=1"} < {*plan.per_node}
    assert f"--job-name={run_id(tmp_path)}" in plan.per_node and run_id(tmp_path) in str(plan.end)
    assert {"--nnodes=2", "--rdzv_backend=c10d", "--nproc_per_node=8"} < {*plan.command} and plan.num_ranks == 16
    assert "--standalone" not in plan.command


@pytest.mark.parametrize("framework", ["hf_trainer", "llmforge", "axolotl"])
def test_a_frameworks_own_launcher_is_told_of_its_nodes(
    compose: Compose, planned: Callable[..., Plan], tmp_path: Path, framework: str
) -> None:
    plan = planned(compose("cluster=torchrun", f"framework={framework}", *SIXTEEN), tmp_path)
    assert any(word.startswith("--nnodes=2") for word in plan.command)


@pytest.mark.parametrize("framework", ["llama_factory", "ms_swift"])
def test_a_framework_that_starts_torchrun_itself_is_told_of_its_nodes_by_its_environment(
    compose: Compose, planned: Callable[..., Plan], tmp_path: Path, framework: str
) -> None:
    nodes = ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    others = Nodes("10.0.0.1", 29400, 1, ("node0", "node1"))
    told = planned(compose("cluster=torchrun", f"framework={framework}", *SIXTEEN), tmp_path, nodes=others).environment
    assert [told[name] for name in nodes] == ["8", "2", "1", "10.0.0.1", "29400"]
    alone = planned(compose(f"framework={framework}", "parallelism=ddp"), tmp_path).environment
    assert [alone.get(name) for name in nodes] == ["2", None, None, None, None]


def test_a_framework_without_a_word_for_nodes_is_refused(compose: Compose) -> None:
    experiment = compose("framework=litgpt", "cluster=slurm", *SIXTEEN)
    single = replace(experiment, parallelism=replace(experiment.parallelism, name="single"))
    values = support.values_of(single, "cpu", "fp32")
    with pytest.raises(support.Unsupported, match=r"litgpt has no way to set parallelism.num_nodes=2; it runs on 1"):
        support.check_supported(single, values, {"parallelism": "single", "data": "synthetic"})


@pytest.mark.parametrize(
    ("overrides", "words", "instead"),
    [
        (
            ("cluster=slurm", "parallelism=ddp", "parallelism.num_nodes=3", "parallelism.num_devices=8"),
            "8 device(s) can't be spread evenly over 3 nodes",
            "parallelism.num_nodes=3 parallelism.num_devices=9",
        ),
        (("parallelism=ddp", "parallelism.num_nodes=2"), "cluster=local is one host", "parallelism.num_nodes=1"),
    ],
)
def test_nodes_that_nobody_can_start_are_refused(
    compose: Compose, overrides: tuple[str, ...], words: str, instead: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(compose(*overrides))
    assert (refused.value.problem, refused.value.instead) == (words, instead)


@pytest.mark.parametrize(
    "argv",
    [
        ["cluster=torchrun"],
        ["-m", "cluster=torchrun", "batch_size=1,2"],
        ["cluster=torchrun", "hydra.run.dir=run", "resume=true"],
    ],
)
def test_nodes_that_others_start_share_one_folder_and_one_job(argv: list[str]) -> None:
    store_schema()
    check_command_line(["cluster=torchrun", "hydra.run.dir=run"])
    with pytest.raises(ConfigError) as refused:
        check_command_line(argv)
    assert refused.value.expected == "hydra.run.dir=FOLDER, no sweep and no resume=true"


def test_more_devices_than_each_node_has_are_refused(compose: Compose) -> None:
    machine = Machine("cuda", "NVIDIA A100-SXM4-80GB", 4, 16, True, "580", 80 * 2**30)
    with pytest.raises(support.Unsupported) as refused:
        support.check_devices(compose("cluster=slurm", *SIXTEEN).parallelism, machine)
    assert str(refused.value) == (
        "parallelism.num_devices=16 on 2 nodes that have each 4 GPU(s); on 8: parallelism.num_devices=8"
    )


@pytest.mark.parametrize("told", [TOLD, {f"PET_{name}": value for name, value in TOLD.items()}])
def test_a_node_that_others_started_knows_its_place(compose: Compose, told: dict[str, str]) -> None:
    experiment = compose("cluster=torchrun", *SIXTEEN)
    assert node_rank(experiment.cluster, told) == 1
    assert found(experiment, **told) == Nodes("10.0.0.1", 29400, 1, ("node0", "node1"), Path("/shared/run"))


@pytest.mark.parametrize("missing", TOLD)
def test_a_node_that_is_not_told_its_place_says_what_it_needs(compose: Compose, missing: str) -> None:
    told = {name: value for name, value in TOLD.items() if name != missing}
    with pytest.raises(Unavailable, match="with MASTER_ADDR, MASTER_PORT and NODE_RANK, or their PET_ forms"):
        found(compose("cluster=torchrun", *SIXTEEN), **told)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (f"host 1 b b\nhost 0 a {HERE}\nlacks 1 b /env/python", "in the same place: b lacks /env/python"),
        (f"host 0 a {HERE}", "parallelism.num_nodes=2, and 1 answered"),
        ("host 1 b b\nhost 0 a a", f"mfubench runs on {HERE}, and the first node is a, whose devices"),
    ],
)
def test_a_node_that_lacks_something_is_named_before_the_start(compose: Compose, said: str, words: str) -> None:
    with pytest.raises(Unavailable) as refused:
        found(compose("cluster=slurm", *SIXTEEN), said, SLURM_JOB_ID="7")
    assert words in str(refused.value)


def test_a_folder_that_a_node_sees_late_is_waited_for(tmp_path: Path) -> None:
    late, never = tmp_path / "runs" / "late", tmp_path / "runs" / "never"
    environment = {**os.environ, "NODE_RANK": "1", NODE: "b"}
    argv = ["sh", "-c", LOOK, "sh", str(late), str(never)]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as looks:
        time.sleep(1.5)
        late.mkdir(parents=True)
        said, _ = looks.communicate(timeout=60)
    assert said.splitlines() == [f"host 1 b {HERE}", f"lacks 1 b {never}"]


def test_the_first_node_is_where_mfubench_runs(compose: Compose) -> None:
    nodes = found(compose("cluster=slurm", *SIXTEEN), f"srun: a word\nhost 1 b b\nhost 0 a {HERE}", SLURM_JOB_ID="7")
    assert (nodes.head, nodes.names, nodes.rank) == (HERE, ("a", "b"), None) and nodes.port


def outcome(*log: str) -> Outcome:
    return Outcome("itself", 1, 1.0, log)


LOST = "[rank0]: RuntimeError: [../third_party/gloo] Connection closed by peer [10.0.0.2]:1234"
REPORT = ("  rank       : {rank} (local_rank: 0)", "  exitcode   : {code} (pid: 7)")


def reported(rank: int, code: int) -> tuple[str, ...]:
    return tuple(line.format(rank=rank, code=code) for line in REPORT)


def test_the_cause_is_found_in_the_log_of_another_node() -> None:
    found = with_cause(outcome(LOST, *reported(0, 1)), others=[("[rank1]: ValueError: a bad sample", *reported(1, 1))])
    assert (found.failed_rank, found.signal, found.last_words) == (1, None, "[rank1]: ValueError: a bad sample")
    killed = with_cause(outcome(LOST, *reported(0, -6)), others=[("training", *reported(1, -9))])
    assert (killed.failed_rank, killed.signal, killed.last_words) == (1, "SIGKILL", LOST)


def test_what_a_launcher_says_of_a_first_node_that_ended_before_it_is_no_cause() -> None:
    late = "torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has failed."
    assert with_cause(outcome("ValueError: a bad sample", late)).last_words == "ValueError: a bad sample"
