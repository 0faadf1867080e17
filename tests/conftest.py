"""What the tests share: experiments composed from the real conf/, a cache of their own, an environment without W&B."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from mfubench.config import Experiment
from mfubench.config.compose import CONFIG_NAME, store_schema, to_experiment
from mfubench.paths import CONF, ROOT


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache, nor the user's W&B settings, nor the user's own defaults."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["MFUBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
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
