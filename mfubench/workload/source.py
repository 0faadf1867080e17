"""Choose the samples of a run: their folder, their writer and their source, from the data option and a number of samples.

Real rows are read in order, and from the start again if they are fewer than a run reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from mfubench import config
from mfubench.workload.hub import check_hub_id, fetch, read_snapshot
from mfubench.workload.jsonl import read_jsonl
from mfubench.workload.rows import Rows
from mfubench.workload.samples import synthetic_samples, write_samples

# Part of every digest: raise it with any change to the bytes that this package writes.
FORMAT = 1
SOURCE_FILE = "source.json"  # beside the samples: their source
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Samples:
    """The samples of a run, written or not."""

    folder: Path
    write: Callable[[Path], None] | None  # None: written already, or not fetched yet
    source: str | None = None  # None: synthetic
    num_rows: int | None = None  # rows in the source; None: synthetic, or not known before it is fetched
    first_other: Mapping[str, int] = field(default_factory=dict)  # as in Rows


def digest(made_of: Mapping[str, Any]) -> str:
    """A name for the product of the inputs `made_of`."""
    words = json.dumps({"format": FORMAT, **made_of}, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def find_samples(
    data: config.Data, *, sequence_length: int, num_samples: int, seed: int, folder: Path, may_fetch: bool
) -> Samples:
    """Find the samples of `data` and check all rows of a real source; the caller writes them with `write`.

    Without `may_fetch` the hub isn't asked, and only the settings are known of its data. Raises ConfigError for bad rows,
    NoData if the hub's data can't be had.
    """
    if data.hub_id is not None:
        check_hub_id(data.hub_id)
        if may_fetch:
            return _of_hub(data.name, data.hub_id, fetch(data.hub_id, data.revision), num_samples, folder)
        return _unfetched(data.name, data.hub_id, data.revision, num_samples, folder)
    if data.path is not None:
        rows, checksum = read_jsonl(data.path, num_samples)
        return _of_rows(data.name, f"jsonl sha256:{checksum}", rows, num_samples, folder)
    made_of = {"num_samples": num_samples, "sequence_length": sequence_length, "seed": seed}
    samples = synthetic_samples(num_samples=num_samples, sequence_length=sequence_length, seed=seed)
    write = partial(write_samples, samples=samples, as_alpaca=True)
    return Samples(folder / f"{data.name}-{digest(made_of)}", write)


@cache
def check_data(data: config.Data) -> None:
    """Raise ConfigError for a bad file; the hub isn't asked.

    A file is read once in this process, however often it is checked.
    """
    if data.path is not None:
        read_jsonl(data.path, 1)


def _of_hub(name: str, hub_id: str, snapshot: Path, num_samples: int, folder: Path) -> Samples:
    source = f"{hub_id}@{snapshot.name}"
    made = _made_samples(_samples_folder(name, source, num_samples, folder), source)
    return made or _of_rows(name, source, read_snapshot(snapshot, hub_id, num_samples), num_samples, folder)


def _unfetched(name: str, hub_id: str, revision: str | None, num_samples: int, folder: Path) -> Samples:
    """Samples without a commit, so without a digest: the folder is named by the revision, and nothing is written there."""
    source = f"{hub_id}@{revision or 'main'}"
    if revision is not None and _COMMIT.fullmatch(revision):
        at = _samples_folder(name, source, num_samples, folder)
        return _made_samples(at, source) or Samples(at, None, source)
    return Samples(folder / f"{name}-{(revision or 'main').replace('/', '-')}", None, source)


def _of_rows(name: str, source: str, rows: Rows, num_samples: int, folder: Path) -> Samples:
    write = partial(_write_rows, rows=rows, num_samples=num_samples, source=source)
    return Samples(_samples_folder(name, source, num_samples, folder), write, source, rows.count, rows.first_other)


def _samples_folder(name: str, source: str, num_samples: int, folder: Path) -> Path:
    return folder / f"{name}-{digest({'source': source, 'num_samples': num_samples, 'layouts': 1})}"


def _made_samples(at: Path, source: str) -> Samples | None:
    if not at.is_dir():
        return None
    said = json.loads((at / SOURCE_FILE).read_text(encoding="utf-8"))
    return Samples(at, None, source, said["num_rows"], said["first_other"])


def _write_rows(folder: Path, *, rows: Rows, num_samples: int, source: str) -> None:
    write_samples(folder, samples=islice(cycle(rows.first), num_samples), as_alpaca="alpaca" not in rows.first_other)
    said = {"source": source, "num_rows": rows.count, "first_other": rows.first_other}
    (folder / SOURCE_FILE).write_text(json.dumps(said) + "\n", encoding="utf-8")
