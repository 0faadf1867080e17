"""What the tests share: experiments composed from the real conf/, a cache of their own, an environment without W&B."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from mfubench import workload
from mfubench.config import Experiment
from mfubench.config.compose import CONFIG_NAME, store_schema, to_experiment
from mfubench.files.paths import CONF, LAUNCHERS, ROOT, cache_folder
from mfubench.plan import engines
from mfubench.plan.native import Place, Plan, make_plan, num_samples, write_files


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache, nor the user's W&B settings, nor the user's own defaults, nor waits for a run
    of the user's."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["MFUBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
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
    """Overrides in, the Experiment out, as the command line would have it."""
    store_schema()

    def composed(*overrides: str) -> Experiment:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return to_experiment(hydra_compose(CONFIG_NAME, list(overrides)))

    return composed


@pytest.fixture(scope="session")
def planned() -> Callable[..., Plan]:
    """An experiment and a run folder in; its plan out, the workload made and the plan's files written."""

    def make(
        experiment: Experiment,
        folder: Path,
        *,
        precision: str = "fp32",
        device: str = "cpu",
        weights_on_disk: bool = False,
    ) -> Plan:
        framework, engine = engines.choose(experiment.framework, lambda _: False)
        prepared = workload.prepare_workload(
            experiment.model,
            experiment.data,
            sequence_length=experiment.sequence_length,
            num_samples=num_samples(experiment),
            seed=experiment.seed,
            weights_on_disk=weights_on_disk,
            dtype="float32",
            folder=cache_folder(),
        )
        place = Place(folder, LAUNCHERS, ROOT, sys.executable, device, precision, 1, engine)
        made = make_plan(replace(experiment, framework=framework), prepared, place)
        write_files(made)
        return made

    return make
