"""Read a user's own files and check every row; a ConfigError names the first bad one."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import shlex
import zlib
from collections.abc import Iterator
from glob import escape, glob
from itertools import chain
from pathlib import Path

from mfubench.config.errors import ConfigError, nearest, quoted
from mfubench.workload.rows import ROW_SHAPES, Rows, Sample, gather_rows, sample_of

EXPECTED = f"rows with {ROW_SHAPES}"
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


def read_jsonl(path: str, wanted: int) -> tuple[Rows, str]:
    """Read the rows of a file, of a folder's training files or of a pattern's files, in one pass.

    A file has one JSON object a line, or one array of them, perhaps compressed by gzip; or it is Parquet. Returns the rows,
    of which the first `wanted` are kept, and the SHA-256 of their bytes. Raises ConfigError if there is no such file, or for
    a bad row.
    """
    digest = hashlib.sha256()
    given = f"data.path={path}"
    try:
        rows = gather_rows(chain.from_iterable(_samples(path, file, digest) for file in _files(path)), wanted)
    except ConfigError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        problem = f"{path} can't be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(problem, given=given, expected="a file that can be read") from error
    if not rows.count:
        raise ConfigError(f"{path} has no rows", given=given, expected=EXPECTED)
    return rows, digest.hexdigest()


def _files(path: str) -> list[Path]:
    at = Path(path).expanduser()
    if at.is_file():
        return [at]
    found = _training_files(at) if at.is_dir() else [Path(file) for file in sorted(glob(str(at), recursive=True))]
    if files := [file for file in found if file.is_file()]:
        return files
    folder = Path(path).parent
    there = sorted(other.name for other in folder.expanduser().glob("*") if other.name.endswith(ENDINGS))
    alike = [] if at.is_dir() else nearest(at.name, there)
    raise ConfigError(
        f"there is no data file {path}",
        given=f"data.path={path}",
        expected=f"a file, folder or pattern (data/*.jsonl) of {', '.join(ENDINGS)}, from {Path.cwd()} if it is relative",
        instead=shlex.quote(f"data.path={quoted(str(folder / alike[0]))}") if alike else None,
    )


def _training_files(folder: Path) -> list[Path]:
    """The files of the split that the library `datasets` calls train: by their names, or all of them."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    splits = DataFilesDict.from_patterns(get_data_patterns(escape(str(folder))), base_path=escape(str(folder)))
    return [Path(file) for file in splits.get("train", ()) if file.endswith(ENDINGS)]


def _samples(path: str, file: Path, digest: hashlib._Hash) -> Iterator[Sample]:
    for place, row in _parquet_rows(file, digest) if file.suffix == ".parquet" else _json_rows(file, digest):
        try:
            yield sample_of(json.loads(row.decode()) if isinstance(row, bytes) else row)
            continue
        except UnicodeDecodeError as error:
            problem = f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start + 1}"
        except json.JSONDecodeError as error:
            problem = f"not JSON: {error.msg} at column {error.colno}"
        except RecursionError:
            problem = "not JSON that can be read: nested too deeply"
        except ValueError as error:
            problem = str(error)
        begins = (row.decode(errors="replace") if isinstance(row, bytes) else str(row))[:60]
        problem = f"{place} of {file}: {problem}; it begins {begins!r}"
        raise ConfigError(problem, given=f"data.path={path}", expected=EXPECTED)


def _json_rows(file: Path, digest: hashlib._Hash) -> Iterator[tuple[str, object]]:
    """Each row with its place: a line as its bytes, numbered as editors count; of one array in the file, its elements."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            digest.update(line)
            text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if number == 1 and text.startswith(b"["):
                digest.update(rest := lines.read())
                yield from ((f"row {place}", row) for place, row in enumerate(json.loads(text + b"\n" + rest), 1))
                return
            if text:
                yield f"line {number}", text


def _parquet_rows(file: Path, digest: hashlib._Hash) -> Iterator[tuple[str, object]]:
    from datasets import load_dataset, logging

    with file.open("rb") as whole:
        while block := whole.read(2**20):
            digest.update(block)
    logging.set_verbosity(logging.CRITICAL)  # what is wrong is said once, by us
    rows = load_dataset("parquet", data_files=escape(str(file)), split="train", streaming=True)
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
