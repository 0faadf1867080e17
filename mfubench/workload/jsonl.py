"""Read a user's JSONL file and check every row; a ConfigError names the first bad line."""

from __future__ import annotations

import codecs
import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mfubench.config.errors import ConfigError, nearest, quoted
from mfubench.workload.samples import ROW_SHAPES, Rows, Sample, gather_rows, sample_of

EXPECTED = f"one JSON object a line, {ROW_SHAPES}"


def read_jsonl(path: str, wanted: int) -> tuple[Rows, str]:
    """Read `path` in one pass. Returns its rows, of which the first `wanted` are kept, and the SHA-256 of its bytes.

    Blank lines may only stand at the end. Raises ConfigError if there is no such file, or for a bad row.
    """
    file = _existing(path)
    digest = hashlib.sha256()
    try:
        with file.open("rb") as lines:
            rows = gather_rows((_sample_of_line(path, *line) for line in _numbered_lines(path, lines, digest)), wanted)
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}", given=f"data.path={path}", expected="a file that can be read"
        ) from error
    if not rows.count:
        raise ConfigError(f"{path} has no rows", given=f"data.path={path}", expected=EXPECTED)
    return rows, digest.hexdigest()


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if file.is_file():
        return file
    problem = f"there is no file {path}"
    if file.is_dir():
        problem = f"{path} is a folder"
    elif file.exists():
        problem = f"{path} is no regular file"
    folder = Path(path) if file.is_dir() else Path(path).parent
    there = sorted(other.name for other in folder.expanduser().glob("*.jsonl"))
    alike = there if file.is_dir() else nearest(file.name, there)
    raise ConfigError(
        problem,
        given=f"data.path={path}",
        expected=f"a file, from {Path.cwd()} if its path is relative",
        instead=shlex.quote(f"data.path={quoted(str(folder / alike[0]))}") if alike else None,
    )


def _numbered_lines(path: str, lines: BinaryIO, digest: hashlib._Hash) -> Iterator[tuple[int, bytes]]:
    """Every line with its number, as editors count; blank lines at the end are left out."""
    blank = None
    for number, line in enumerate(lines, 1):
        digest.update(line)
        if not line.strip():
            blank = blank or number
        elif blank is not None:
            raise _line_error(path, blank, b"", "blank, with rows after it")
        else:
            yield number, line.rstrip()


def _sample_of_line(path: str, number: int, line: bytes) -> Sample:
    if number == 1 and line.startswith(codecs.BOM_UTF8):
        raise _line_error(path, number, line, "the file begins with a byte order mark; UTF-8 without one is read")
    try:
        return sample_of(json.loads(line.decode()))
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}"
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        problem = "not JSON that can be read: nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise _line_error(path, number, line, problem)


def _line_error(path: str, number: int, line: bytes, problem: str) -> ConfigError:
    begins = line.decode(errors="replace")[:60]
    shown = f"; it begins {begins!r}" if begins else ""
    way_on = (
        f"; `jq -c '.[]' {shlex.quote(path)}` makes such lines of an array" if line.lstrip().startswith(b"[") else ""
    )
    return ConfigError(
        f"line {number} of {path}: {problem}{shown}", given=f"data.path={path}", expected=EXPECTED + way_on
    )
