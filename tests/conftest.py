"""What the tests share: experiments composed from the real conf/, a cache of their own, an environment without W&B."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from rich.console import Console

from mfubench import workload
from mfubench.config import Experiment
from mfubench.config.compose import CONFIG_NAME, store_schema, to_experiment
from mfubench.files.paths import CONF, LAUNCHERS, ROOT, cache_folder
from mfubench.plan import engines
from mfubench.plan.native import Place, make_plan, num_samples
from mfubench.plan.nodes import ONE_HOST, Nodes
from mfubench.plan.plan import Plan, write_files


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test that is marked sample(n), all but every n-th are slow."""
    cases: Counter[str] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("sample")) is not None:
            test = item.nodeid.partition("[")[0]
            if cases[test] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache, nor the user's W&B settings, nor the user's own defaults, nor waits for a run
    of the user's.

    The workers of one session share a cache, which is made for several processes: a model is written, a count made and
    DeepSpeed's operator compiled once. Each has its own locks, so that no run waits for one of the other worker.
    """
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    cache.mkdir(exist_ok=True)
    os.environ["MFUBENCH_CACHE"] = str(cache)
    os.environ["MFUBENCH_LOCKS"] = str(tmp_path_factory.mktemp("locks"))
    os.environ["MFUBENCH_LOCAL"] = "none"
    os.environ["PYTHONPATH"] = str(ROOT)  # commands run from other folders find the checkout, installed or not
    yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def compose() -> Callable[..., Experiment]:
    """Overrides in, the Experiment out, as the command line would have it. Hydra composes the same overrides once."""
    store_schema()

    @cache
    def composed(*overrides: str) -> Experiment:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return to_experiment(hydra_compose(CONFIG_NAME, list(overrides)))

    return lambda *overrides: deepcopy(composed(*overrides))


@pytest.fixture(scope="session")
def planned() -> Callable[..., Plan]:
    """An experiment and a run folder in; its plan out, the workload made and the plan's files written."""

    def make(
        experiment: Experiment,
        folder: Path,
        *,
        precision: str = "fp32",
        device: str = "cpu",
        nodes: Nodes = ONE_HOST,
    ) -> Plan:
        framework, engine = engines.choose(experiment.framework, lambda _: False)
        prepared = workload.prepare_workload(
            experiment.model,
            experiment.data,
            sequence_length=experiment.sequence_length,
            num_samples=num_samples(experiment),
            seed=experiment.seed,
            weights_on_disk=framework.random_weights == "disk",
            dtype="float32",
            folder=cache_folder(),
            console=Console(quiet=True),
        )
        place = Place(folder, LAUNCHERS, ROOT, sys.executable, device, precision, 1, engine, nodes=nodes)
        made = make_plan(replace(experiment, framework=framework), prepared, place)
        write_files(made)
        return made

    return make
