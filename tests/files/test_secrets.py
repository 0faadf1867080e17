"""Values of secret environment variables stand in no file of a run; and what others wrote does no harm."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from made_results import make_result
from rich.console import Console

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import check_command_line, store_schema
from mfubench.files import secrets
from mfubench.report.table import show
from mfubench.result import Result, resume, write_result
from mfubench.result.result_file import FILE_NAME, read_result

ROOT = Path(__file__).parents[2]
SECRET = 'hf_s3cr3t/"of mine"+\\ü'
UNSAFE = re.compile(
    r"yaml\.(load\((?!.*SafeLoader)|(full|unsafe)_load)|pickle|torch\.load\(|trust_remote_code(=|: *|\": *)[Tt]rue"
)
TRAINERS = Path(__file__).parents[1] / "trainers"


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if secrets.SECRET_VARIABLE.search(name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOME_HUB_TOKEN", SECRET)


def refusal(*argv: str) -> ConfigError:
    """What the command line is refused with."""
    store_schema()
    with pytest.raises(ConfigError) as caught:
        check_command_line(argv)
    return caught.value


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "HF_TOKEN", "APP_SECRET", "PASSWORD", "DB_PASSWORD_1", "AWS_SECRET_ACCESS_KEY"]
)
def test_a_variables_name_says_that_its_value_is_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "abcdefgh")
    assert secrets.clean("an abcdefgh!") == "an ***!"


def test_other_variables_and_short_values_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "somewhere")
    monkeypatch.setenv("CI_TOKEN", "seven77")
    assert secrets.clean("somewhere seven77") == "somewhere seven77"


def test_a_secret_is_found_as_json_and_as_an_address_has_it() -> None:
    for text in (SECRET, json.dumps({"a": SECRET}), "https://me:hf_s3cr3t%2F%22of%20mine%22%2B%5C%C3%BC@host"):
        assert "s3cr3t" in text
        assert "s3cr3t" not in secrets.clean(text)
    assert secrets.clean_tree({SECRET: [SECRET, ("a", SECRET), 1, None]}) == {"***": ["***", ["a", "***"], 1, None]}


def test_of_two_secrets_that_begin_alike_the_longer_is_replaced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefgh-and-more")
    assert secrets.clean("abcdefgh-and-more abcdefgh") == "*** ***"


def test_a_file_is_cleaned_in_its_place_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    log, noise = tmp_path / "framework.log", os.urandom(1 << 20).replace(b"abcdefgh", b"")
    log.write_bytes(b"abcdefgh" + noise * 40 + b"x" + SECRET.encode() + noise + b"abcdefgh")
    clean = log.read_bytes().replace(b"abcdefgh", b"*" * 8).replace(SECRET.encode(), b"*" * len(SECRET.encode()))
    inode = log.stat().st_ino
    secrets.clean_file(log)
    assert log.read_bytes() == clean
    assert log.stat().st_ino == inode
    for nothing in (tmp_path / "missing", tmp_path / "empty"):
        nothing.name == "empty" and nothing.touch()
        secrets.clean_file(nothing)


@pytest.mark.parametrize(
    "argument",
    [
        f"+framework.native.note={json.dumps(SECRET)}",
        "+framework.native.note='hf_s3cr3t%2F%22of%20mine%22%2B%5C%C3%BC'",
    ],
)
def test_a_secret_given_as_an_override_is_refused_and_not_repeated(
    argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal("batch_size=2", argument)
    screen = error.screen([secrets.clean(each) for each in ("batch_size=2", argument)])
    assert "s3cr3t" not in screen and "SOME_HUB_TOKEN" in screen
    assert len(screen.splitlines()) <= 4


@pytest.mark.parametrize("key", ["hub_token", "token", "api_key", "wandb_api_key", "db.password", "secret", "HF_TOKEN"])
def test_a_setting_that_takes_a_secret_is_refused_with_any_value(key: str) -> None:
    error = refusal(f"+framework.native.{key}=hello-world")
    assert "looks like a secret" in error.problem
    assert "hello-world" not in error.screen([])


@pytest.mark.parametrize(
    "argument",
    ["special_tokens.pad_token='<pad>'", "eos_token='</s>'", "add_bos_token=true", "hub_token=null", "max_tokens=4096"],
)
def test_tokens_of_a_vocabulary_and_switches_are_no_secrets(argument: str) -> None:
    store_schema()
    check_command_line([f"+framework.native.{argument}"])


def test_a_secret_in_the_users_own_defaults_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_HUB_TOKEN", "llama-tiny")  # a value of conf/ that is composed, here
    assert "SOME_HUB_TOKEN" in refusal().problem


def test_a_run_writes_no_secret_into_any_file(tmp_path: Path) -> None:
    """The trainer prints its environment, and fails with the secret in its last words."""
    trainer = f"framework.command=['${{run.python}}','{TRAINERS / 'talkative.py'}']"
    argv = [sys.executable, "-m", "mfubench", trainer, "hardware.peak_flops_per_second=1e12", "tracking.mode=offline"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 3, done.stderr
    (log,) = tmp_path.rglob("framework.log")
    assert "SOME_HUB_TOKEN" in log.read_text()  # it did print its environment
    (result,) = tmp_path.rglob(FILE_NAME)
    assert "no such token: ***" in json.loads(result.read_text())["reason"] + done.stdout
    assert list(tmp_path.rglob("*.wandb"))
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"s3cr3t" not in path.read_bytes(), path
    assert "s3cr3t" not in done.stdout + done.stderr


def test_what_a_killed_run_left_is_cleaned_by_the_one_that_goes_on(tmp_path: Path) -> None:
    killed = tmp_path / "run"
    (killed / "records").mkdir(parents=True)
    left = (killed / "framework.log", killed / "records" / "rank0.jsonl")
    for path in left:
        path.write_text(f"a {SECRET}")
    assert resume.claim_folder(killed, resuming=True) == tmp_path / "run-2"
    assert all("s3cr3t" not in path.read_text() for path in left)


def test_a_secret_that_the_framework_would_be_given_in_a_file_is_refused(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mfubench", "+framework.native.note=${oc.env:SOME_HUB_TOKEN}"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "SOME_HUB_TOKEN" in done.stderr and "Traceback" not in done.stderr
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"s3cr3t" not in path.read_bytes(), path


def test_nothing_here_loads_yaml_unsafely_or_trusts_a_models_code() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.splitlines() if name.startswith(("mfubench", "launchers", "conf"))]
    assert files
    for path in files:
        text = path.read_text(errors="replace")
        assert not UNSAFE.search(text), path


def test_a_result_from_somebody_else_runs_nothing_and_moves_no_cursor(
    run_folder_result: Callable[..., Result], tmp_path: Path
) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m[red]bold[/red][link=file:///etc/passwd]x[/link]\r\u202e${oc.env:HOME}{{7*7}}"
    result = run_folder_result(name=evil, framework=evil, reason=evil, status="failed", measurement=None)
    write_result(result, tmp_path)
    output = StringIO()
    show([read_result(tmp_path / FILE_NAME)] * 2, Console(file=output, width=200))
    printed = output.getvalue()
    assert "[red]bold[/red]" in printed
    assert all(character.isprintable() or character == "\n" for character in printed)


@pytest.mark.slow
def test_a_result_that_cannot_be_written_is_not_there_and_leaves_the_old_one(
    run_folder_result: Callable[..., Result], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk can only be made by root")
    try:
        old = write_result(run_folder_result(), disk).read_bytes()
        large = run_folder_result(step_times_s={"0": [0.123456789] * 300_000})
        with pytest.raises(OSError) as caught:
            write_result(large, disk)
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in disk.iterdir()] == [FILE_NAME]
        assert (disk / FILE_NAME).read_bytes() == old

        command = [sys.executable, "-m", "mfubench", "-m", "repeat=0,1", f"hydra.sweep.dir={disk}/sweep"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not (disk / "sweep" / "1").exists()  # the sweep has stopped
        assert done.stderr.rstrip().endswith(
            f"python -m mfubench -m repeat=0,1 resume=true hydra.sweep.dir={disk}/sweep"
        )

        for each in ([f"hydra.run.dir={disk}/run"], ["-m", "repeat=0,1", f"hydra.sweep.dir={disk}/more"]):
            with open(disk / "filler", "ab") as filler, suppress(OSError):
                filler.write(bytes(2**20))  # what writes to a file that it has opened isn't told the file's name
            done = subprocess.run([*command[:3], *each], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 1, done.stdout + done.stderr
            assert f"No space left on device: {each[-1].partition('=')[2]}" in done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "read only"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk that is read-only can only be made by root")
    try:
        for argv in ([f"hydra.run.dir='{folder}/run'"], ["-m", "repeat=0,1", f"hydra.sweep.dir='{folder}/sweep'"]):
            command = [sys.executable, "-m", "mfubench", *argv]
            environment = {**os.environ, "MFUBENCH_CACHE": str(tmp_path / "cache")}
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
            )
            assert done.returncode == 1
            assert "Read-only file system" in done.stderr and str(folder) in done.stderr
            assert "preparing" not in done.stderr and "Traceback" not in done.stderr
            assert not (tmp_path / "cache").exists()
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def run_folder_result(compose: Callable[..., Experiment]) -> Callable[..., Result]:
    """A result, with what is said of it."""
    from dataclasses import asdict

    def made(**said: object) -> Result:
        plain = {
            "name": "a run",
            "framework": "some_trainer",
            "status": "ok",
            "started_at": "2026-01-02T03:04:05+00:00",
            "settings": asdict(compose()),
        }
        return make_result(**{**plain, **said})

    return made
