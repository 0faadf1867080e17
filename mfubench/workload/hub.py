"""Fetch from the hub: a model's config.json; a dataset's folder at one commit, and its rows.

The commit is asked for first, once and for a few seconds at most: without a network the hub's client would try for half a
minute. If the hub doesn't answer, a cached copy is used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from mfubench.config.errors import ConfigError
from mfubench.workload.rows import ROW_SHAPES, Rows, Sample, gather_rows, sample_of

if TYPE_CHECKING:
    from datasets import Dataset

HUB_TIMEOUT_S = 10.0
CONFIG_JSON = "config.json"


class NoData(Exception):
    """The dataset is not cached and can't be fetched; `str()` is one line with the cause and the way out."""


def check_hub_id(hub_id: str) -> None:
    """Raise ConfigError for an impossible dataset id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise ConfigError(
            f"{hub_id!r} can't be the id of a dataset",
            given=f"data.hub_id={hub_id}",
            expected="owner/name, as on the hub",
        ) from error


def has_token() -> bool:
    """True if the user has a token of the hub here, which gated models and datasets need."""
    from huggingface_hub import get_token

    return get_token() is not None


def fetch(hub_id: str, revision: str | None) -> Path:
    """The folder of the commit of `revision` (None: the main branch); the folder's name is the commit.

    From the hub if it answers within HUB_TIMEOUT_S, else from the hub's cache. Raises NoData if neither has it.
    """
    from huggingface_hub import HfApi, snapshot_download

    get = partial(snapshot_download, hub_id, repo_type="dataset", revision=revision)
    found = _from_hub_or_cache(partial(HfApi().dataset_info, hub_id), get, revision)
    if isinstance(found, Path):
        return found
    raise NoData(
        f"the dataset {hub_id} can't be fetched ({found}), and there is no copy of it in the hub's cache; try again "
        "with a connection, or train on a file: data=jsonl data.path=FILE"
    )


def fetch_config(hub_id: str, revision: str | None) -> Path:
    """The config.json of a model, as `fetch` finds it. Raises ConfigError if neither the hub nor its cache has it."""
    from huggingface_hub import HfApi, hf_hub_download

    get = partial(hf_hub_download, hub_id, CONFIG_JSON, revision=revision)
    found = _from_hub_or_cache(partial(HfApi().model_info, hub_id), get, revision)
    if isinstance(found, Path):
        return found
    raise ConfigError(
        f"{CONFIG_JSON} of {hub_id} can't be fetched ({found}), and there is no copy of it in the hub's cache",
        given=f"model.hub_id={hub_id}",
        expected=f"a connection, or the file itself: model.config_file={CONFIG_JSON}",
        instead=f"model=custom model.config_file={CONFIG_JSON}",
    )


def _from_hub_or_cache(ask: Callable[..., object], get: Callable[..., str], revision: str | None) -> Path | str:
    """Return what `get` downloads, if the hub answers `ask` in time, or finds in the cache; else the cause, in words."""
    try:
        _within(HUB_TIMEOUT_S, lambda: ask(revision=revision, timeout=HUB_TIMEOUT_S))
        return Path(get())
    except Exception as error:  # also those of the client's HTTP library, which differs between versions
        cause = _cause(error, revision)
    try:
        return Path(get(local_files_only=True))
    except (LookupError, OSError, ValueError):  # LocalEntryNotFoundError, and an id that can't be one
        return cause


def read_snapshot(folder: Path, hub_id: str, wanted: int) -> Rows:
    """Read the split `train`; the first `wanted` rows are kept. Raises ConfigError if there is none, or for a bad row."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    with tempfile.TemporaryDirectory(prefix="mfubench-") as temporary:
        try:
            dataset = load_dataset(str(folder), split="train", cache_dir=temporary)
        except (DatasetsError, FileNotFoundError, ValueError) as error:
            problem, expected = f"can't be read: {_first_line(error)}", "a dataset with a split called train"
            raise _dataset_error(hub_id, problem, expected) from error
        return rows_of(dataset, hub_id, wanted)


def rows_of(dataset: Dataset, hub_id: str, wanted: int) -> Rows:
    """Check the dataset's rows; the first `wanted` are kept. Raises ConfigError for no rows, or a bad row."""
    if not len(dataset):
        raise _dataset_error(hub_id, "has no rows", f"rows with {ROW_SHAPES}")
    return gather_rows((_sample_of_row(hub_id, number, row) for number, row in enumerate(dataset, 1)), wanted)


def _sample_of_row(hub_id: str, number: int, row: object) -> Sample:
    try:
        return sample_of(row)
    except ValueError as error:
        problem = f"has a bad row, number {number}: {error}; it begins {str(row)[:60]!r}"
        raise _dataset_error(hub_id, problem, f"rows with {ROW_SHAPES}") from error


def _dataset_error(hub_id: str, problem: str, expected: str) -> ConfigError:
    return ConfigError(f"the dataset {hub_id} {problem}", given=f"data.hub_id={hub_id}", expected=expected)


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Call, and raise TimeoutError after so many seconds.

    The client's own limit is one of many: it holds for each address of the host, and not for looking up its name.
    """
    done: Future[object] = Future()

    def call_and_report() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=call_and_report, daemon=True).start()
    done.result(timeout=seconds)


def _cause(error: Exception, revision: str | None) -> str:
    from huggingface_hub import errors

    causes = {
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set",
        TimeoutError: f"the hub doesn't answer within {HUB_TIMEOUT_S:g} s",
        errors.GatedRepoError: "it is gated, and this account has no access",  # a RepositoryNotFoundError, too
        errors.RepositoryNotFoundError: "the hub has none of that name, or none that this account may see",
        errors.RevisionNotFoundError: f"it has no revision {revision}",
    }
    return next((cause for kind, cause in causes.items() if isinstance(error, kind)), _first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
