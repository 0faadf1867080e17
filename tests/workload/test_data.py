"""Data of a file: rows in both shapes, good and bad, as many as a run reads."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mfubench import config
from mfubench.config import ConfigError, Experiment, WrongCombination
from mfubench.config.validate import validate
from mfubench.files.paths import ROOT
from mfubench.plan.plan import Plan
from mfubench.plan.support import Unsupported
from mfubench.workload import Workload, prepare_workload
from mfubench.workload.jsonl import read_jsonl
from mfubench.workload.rows import in_turns, sample_of
from mfubench.workload.samples import Sample

ON_THE_HUB = config.Model(name="m", hub_id="some/model", revision=None, weights="hub", architecture={})
ALPACA: list[dict[str, Any]] = [
    {"instruction": "Name a tree.", "input": "", "output": "An oak."},
    {"instruction": "Add.", "input": "2 and 3", "output": "5 — fünf 🤖\u2028", "text": "of the original, not read"},
    {"instruction": "Say nothing.", "output": ""},
    {"instruction": "Say no.", "input": None, "output": "No."},
]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}], "id": 7},
    {"messages": [{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": ""}], "name": "b"},
]
WITH_SYSTEM: dict[str, Any] = {"messages": [{"role": "system", "content": "Be brief."}, *CHATS[0]["messages"]]}


def from_file(path: Path | str) -> config.Data:
    """The data option of a file."""
    return config.Data("jsonl", str(path), None, None, "longest")


def prepared(data: config.Data, folder: Path, num_samples: int = 4, dry: bool = False) -> Workload:
    """The workload of some data in the cache `folder`."""
    asked: dict[str, Any] = {"sequence_length": 64, "seed": 0, "weights_on_disk": False, "dtype": "float32"}
    return prepare_workload(
        ON_THE_HUB, data, num_samples=num_samples, **asked, folder=folder, console=Console(quiet=True), dry=dry
    )


def written(path: Path, rows: list[Any], end: str = "\n") -> Path:
    """A file with one row a line."""
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end, encoding="utf-8")
    return path


def lines(path: str | None) -> list[Any]:
    """What a file of samples says."""
    assert path is not None
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def turns(question: str, answer: str) -> dict[str, Any]:
    """The messages row of a question and its answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_alpaca_rows_become_messages_and_stay_what_they_were(tmp_path: Path) -> None:
    workload = prepared(from_file(written(tmp_path / "train.jsonl", ALPACA)), tmp_path / "cache")
    assert lines(workload.messages_path) == [
        turns("Name a tree.", "An oak."),
        turns("Add.\n\n2 and 3", "5 — fünf 🤖\u2028"),
        turns("Say nothing.", ""),
        turns("Say no.", "No."),
    ]
    assert lines(workload.alpaca_path) == [
        {"instruction": "Name a tree.", "input": "", "output": "An oak."},
        {"instruction": "Add.", "input": "2 and 3", "output": "5 — fünf 🤖\u2028"},
        {"instruction": "Say nothing.", "input": "", "output": ""},
        {"instruction": "Say no.", "input": "", "output": "No."},
    ]


def test_messages_of_a_question_and_its_answer_become_alpaca_rows(tmp_path: Path) -> None:
    workload = prepared(from_file(written(tmp_path / "train.jsonl", CHATS)), tmp_path / "cache", num_samples=2)
    assert lines(workload.messages_path) == [turns("Hello?", "Yes."), turns("a\nb", "")]
    assert lines(workload.alpaca_path) == [
        {"instruction": "Hello?", "input": "", "output": "Yes."},
        {"instruction": "a\nb", "input": "", "output": ""},
    ]


@pytest.mark.parametrize(
    "other",
    [
        WITH_SYSTEM,
        {"messages": [*CHATS[0]["messages"], *CHATS[1]["messages"]]},
        {"messages": list(reversed(CHATS[0]["messages"]))},
    ],
)
def test_one_conversation_that_is_no_question_and_answer_and_there_are_no_alpaca_rows(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    file = written(tmp_path / "train.jsonl", [ALPACA[0], *CHATS, other])
    workload = prepared(from_file(file), tmp_path / "cache")
    assert workload.alpaca_path is None
    assert not list((tmp_path / "cache").rglob("alpaca*"))
    assert lines(workload.messages_path)[-1] == {"messages": other["messages"]}
    assert (
        prepared(from_file(file), tmp_path / "cache", num_samples=2).alpaca_path is None
    )  # whatever a run reads of it


@pytest.mark.parametrize(("num_samples", "read"), [(2, [0, 1]), (4, [0, 1, 2, 3]), (10, [0, 1, 2, 3] * 2 + [0, 1])])
def test_a_run_reads_as_many_rows_as_it_needs_in_order_and_from_the_start_again(
    tmp_path: Path, num_samples: int, read: list[int]
) -> None:
    workload = prepared(from_file(written(tmp_path / "train.jsonl", ALPACA)), tmp_path / "cache", num_samples)
    assert [row["instruction"] for row in lines(workload.alpaca_path)] == [ALPACA[row]["instruction"] for row in read]
    assert len(lines(workload.messages_path)) == workload.num_samples == num_samples
    assert workload.num_rows == 4


def test_the_source_is_the_bytes_of_the_file_and_not_its_name(tmp_path: Path) -> None:
    one, same, other = (
        written(tmp_path / name, rows)
        for name, rows in (("a.jsonl", ALPACA), ("b.jsonl", ALPACA), ("c.jsonl", ALPACA[:3]))
    )
    a, b, c = (prepared(from_file(file), tmp_path / "cache") for file in (one, same, other))
    assert a == b
    assert c.messages_path != a.messages_path != prepared(from_file(one), tmp_path / "cache", 5).messages_path
    assert a.data_source == f"jsonl sha256:{hashlib.sha256(one.read_bytes()).hexdigest()}"
    assert (a.num_rows, c.num_rows) == (4, 3)


@pytest.mark.parametrize("end", ["", "\n", "\n\n \n\n", "\r\n"])
def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path, end: str) -> None:
    assert prepared(from_file(written(tmp_path / "train.jsonl", ALPACA, end)), tmp_path / "cache").num_rows == 4


def test_a_relative_path_starts_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "train.jsonl", ALPACA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    by_name, from_home = (prepared(from_file(path), tmp_path / "c") for path in ("train.jsonl", "~/train.jsonl"))
    assert by_name == from_home


def test_a_dry_run_reads_the_file_and_writes_nothing(tmp_path: Path) -> None:
    data = from_file(written(tmp_path / "train.jsonl", [*ALPACA, WITH_SYSTEM]))
    located = prepared(data, tmp_path / "cache", dry=True)
    assert not (tmp_path / "cache").exists()
    assert located == prepared(data, tmp_path / "cache")
    assert (located.num_rows, located.alpaca_path) == (5, None)


GOOD = json.dumps(ALPACA[0]).encode()
BAD_LINES = {
    b'{"instruction": "a" "output": "b"}': "not JSON: Expecting ',' delimiter at column 21",
    b'{"instruction": "a", "output": "b"': "not JSON: Expecting ',' delimiter at column 35",
    b"instruction,output": "not JSON: Expecting value at column 1",
    b"[" * 100_000: "nested too deeply",
    b"9" * 5000: "Exceeds the limit",
    b'{"instruction": "caf\xe9", "output": "b"}': "not UTF-8: byte 0xe9 at 21",
    b'["instruction", "output"]': "an array, not an object",
    b'"instruction"': "a string, not an object",
    b"null": "null, not an object",
    b"{}": "no layout that is known; its keys are none",
    b'{"prompt": "a", "chosen": "b", "rejected": "c"}': "its keys are prompt, chosen, rejected",
    b'{"instruction": "a"}': "no layout that is known; its keys are instruction",
    b'{"prompt": "a", "completion": ["b"]}': "completion is an array, not a string",
    b'{"text": null}': "text is null, not a string",
    b'{"instruction": ["a"], "output": "b"}': "instruction is an array, not a string",
    b'{"instruction": "a", "input": 1, "output": "b"}': "input is a number, not a string",
    b'{"instruction": "a", "output": null}': "output is null, not a string",
    b'{"instruction": "a", "output": "\\ud83e"}': r"output has half of a character, '\ud83e'",
    b'{"messages": {}}': "messages is an object, not an array",
    b'{"messages": []}': "messages is empty",
    b'{"messages": ["a"]}': "messages[0] is a string, not an object",
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}': "messages[1] has no content",
    b'{"messages": [{"value": "a"}]}': "messages[0] has no role; its keys are value",
    b'{"conversations": [{"from": "human"}]}': "conversations[0] has no content; its keys are from",
    b'{"conversations": [{"from": "human", "value": 1}]}': "conversations[0].value is a number, not a string",
    b'{"messages": [{"role": "assistant", "content": null}]}': "messages[0].content is null, not a string",
    b'{"messages": [{"role": true, "content": "a"}]}': "messages[0].role is true or false, not a string",
    b'{"messages": [{"role": "critic", "content": "a"}]}': "messages[0].role is 'critic', not one of system, user",
    b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}': "content[0] is image without text, and a run",
    b"\xef\xbb\xbf" + GOOD: "not JSON",
}


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(("line", "problem"), BAD_LINES.items(), ids=[str(line[:30]) for line in BAD_LINES])
def test_a_bad_line_is_named_by_its_number_and_nothing_is_made(
    tmp_path: Path, line: bytes, problem: str, dry: bool
) -> None:
    file = tmp_path / "train.jsonl"
    file.write_bytes(b"\n".join([*[GOOD] * 16, line, *[GOOD] * 3]) + b"\n")
    with pytest.raises(ConfigError) as error:
        prepared(from_file(file), tmp_path / "cache", num_samples=2, dry=dry)  # whatever a run reads of it
    assert error.value.problem.startswith(f"line 17 of {file}: ")
    assert problem in error.value.problem
    begins = line.decode(errors="replace")[:60]
    assert begins.strip() == "" or f"it begins {begins!r}" in error.value.problem
    assert len(error.value.screen([]).splitlines()) == 3 and len(error.value.problem) < 300 + len(str(file))
    assert error.value.given == f"data.path={file}"
    assert not (tmp_path / "cache").exists()


def test_an_array_that_is_torn_or_has_a_bad_row_names_the_place(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    for text, problem in (("[\n  {\n", "can't be read: .*line 3"), ('[{"text": "a"}, 1]', "row 2 of .*a number")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            prepared(from_file(file), tmp_path / "cache")


def test_another_encoding_is_called_that(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(GOOD.decode(), encoding="utf-16")
    with pytest.raises(ConfigError, match=r"line 1 of .*: not UTF-8: byte 0xff at 1"):
        prepared(from_file(file), tmp_path / "cache")


LAYOUTS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": "x"},
        [("user", "a"), ("assistant", "b")],
    ),
    "ShareGPT with a system text, tools and their results": (
        {
            "system": "s",
            "tools": "[t]",
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": "f()"},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "b"},
            ],
        },
        [("system", "[t]\n\ns"), ("user", "a"), ("assistant", "f()"), ("user", "1"), ("assistant", "b")],
    ),
    "prompt and completion": ({"prompt": "a", "completion": "b"}, [("user", "a"), ("assistant", "b")]),
    "prompt and completion of messages": (
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        [("user", "a"), ("assistant", "b")],
    ),
    "Dolly": ({"instruction": "a", "context": "c", "response": "b"}, [("user", "a\n\nc"), ("assistant", "b")]),
    "question and answer": ({"question": "a", "answer": "b"}, [("user", "a"), ("assistant", "b")]),
    "input and output": ({"input": "a", "output": "b"}, [("user", "a"), ("assistant", "b")]),
    "text": ({"text": "<|im_start|>user\na"}, [("user", ""), ("assistant", "<|im_start|>user\na")]),
    "OpenAI's fine-tuning": (
        {
            "messages": [
                {"role": "developer", "content": "d"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "c"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "tool_call_id": "1", "content": "r"},
                {"role": "tool", "tool_call_id": "2", "content": "s"},
                {"role": "assistant", "content": "b", "weight": 0},
            ],
            "tools": [{"type": "function"}],
        },
        [
            ("system", '[{"type": "function"}]\n\nd'),
            ("user", "ac"),
            ("assistant", '[{"id": "1"}]'),
            ("user", "r\n\ns"),
            ("assistant", "b"),
        ],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_every_layout_become_messages(layout: str) -> None:
    row, messages = LAYOUTS[layout]
    sample = sample_of(row)
    assert [(turn["role"], turn["content"]) for turn in sample.messages] == messages
    assert in_turns(sample)


def test_the_layouts_of_the_page_are_read() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = [json.loads(row) for row in page.partition("```json\n")[2].partition("```")[0].splitlines()]
    assert len(rows) == 7 and all(in_turns(sample_of(row)) for row in rows)


@pytest.mark.parametrize(
    ("roles", "turns"),
    [("ua", True), ("suaua", True), ("u", False), ("s", False), ("au", False), ("uua", False), ("usa", False)],
)
def test_turns_are_those_of_user_and_assistant(roles: str, turns: bool) -> None:
    names = {"s": "system", "u": "user", "a": "assistant"}
    assert in_turns(Sample([{"role": names[role], "content": ""} for role in roles], None)) == turns


def test_rows_are_read_from_files_as_they_are_found(tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tmp_path / "a [1]"
    folder.mkdir()
    rows = [row for row, _ in LAYOUTS.values()]
    of_one_type = {"messages": [turn for turn in rows[-1]["messages"] if not isinstance(turn["content"], list)]}
    line = json.dumps(rows[0]).encode()
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n \n" + line + b"\r\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(line + b"\n" + line))
    (folder / "c.json").write_text(json.dumps(rows, indent=1))
    Dataset.from_list([of_one_type]).to_parquet(str(folder / "d.parquet"))
    (folder / "README.md").write_text("of no interest")
    (folder / "test.jsonl").write_text("not of the training split")
    counts = {"a.jsonl": 2, "b.jsonl.gz": 2, "c.json": len(rows), "d.parquet": 1}
    assert {name: read_jsonl(str(folder / name), 1)[0].count for name in counts} == counts
    assert read_jsonl(str(folder / "d.parquet"), 1)[0].first == [sample_of(of_one_type)]
    (folder / "train").mkdir()
    for name in counts:
        (folder / name).rename(folder / "train" / name)
    everything, checksum = read_jsonl(str(folder), 100)
    assert everything.count == len(everything.first) == sum(counts.values())
    assert everything.first[-1] == sample_of(of_one_type)
    (folder / "train").rename(tmp_path / "b")
    assert read_jsonl(str(tmp_path / "b" / "*.[jp]*"), 100) == (everything, checksum)
    assert read_jsonl(f"{tmp_path}/b/**/*.jsonl*", 1)[0].count == 4


@pytest.mark.parametrize("name", ["a.jsonl.gz", "b.jsonl.gz", "c.parquet"])
def test_a_torn_file_is_an_error(tmp_path: Path, name: str) -> None:
    content = {"a": b"no gzip", "b": gzip.compress(GOOD)[:-12], "c": b"no parquet"}
    (tmp_path / name).write_bytes(content[name[0]])
    with pytest.raises(ConfigError, match=f"{name} can't be read: "):
        read_jsonl(str(tmp_path / name), 1)


def test_a_framework_that_needs_turns_refuses_the_first_row_without_them(
    tmp_path: Path, planned: Callable[..., Plan], compose: Callable[..., Experiment]
) -> None:
    started_by_gpt = {"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}
    file = written(tmp_path / "train.jsonl", [*ALPACA, started_by_gpt])
    for framework, form in (("llama_factory", "turns"), ("torchtune", "turns"), ("litgpt", "one question")):
        given = (f"framework={framework}", "data=jsonl", f"data.path={file}")
        with pytest.raises(Unsupported, match=rf"{framework} trains on rows of {form}.*row 5 of data=jsonl"):
            planned(compose(*given), tmp_path)
    planned(compose("framework=trl", "data=jsonl", f"data.path={file}"), tmp_path)


@pytest.mark.parametrize("content", ["", "\n", " \n\n\t\n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"train.jsonl has no rows"):
        prepared(from_file(file), tmp_path / "cache")


def test_what_is_no_file_is_an_error_that_names_the_file_that_may_be_meant(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", ALPACA)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.csv").touch()
    for given, problem, meant in (
        ("trian.jsonl", "there is no data file", "train.jsonl"),
        ("elsewhere/a.jsonl", "there is no data file", None),
        ("elsewhere/*.jsonl", "there is no data file", None),
        ("folder", "there is no data file", None),
        ("pipe", "there is no data file", None),
        ("train.jsonl/a", "there is no data file", None),
    ):
        with pytest.raises(ConfigError, match=problem) as error:
            prepared(from_file(tmp_path / given), tmp_path / "cache")
        assert error.value.instead == (None if meant is None else f"data.path={tmp_path / meant}")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that is there and can't be read")
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/proc/self/mem can't be read: "):
        prepared(from_file("/proc/self/mem"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("overrides", "problem", "instead"),
    [
        (("data=jsonl",), "there is no file to train on", "data=jsonl data.path=FILE"),
        (("data.path=a b",), "synthetic data are made, not read", "data=jsonl 'data.path=\"a b\"'"),
        (("data.hub_id=a/b",), "synthetic data are made, not read", "data=alpaca data.hub_id=a/b"),
        (("data=alpaca", "data.path=a"), "data come from one place", "data=jsonl data.path=a"),
        (("data=jsonl", "data.path=a", "data.revision=b"), "these data have no revision", None),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(
    compose: Callable[..., Experiment], overrides: tuple[str, ...], problem: str, instead: str | None
) -> None:
    with pytest.raises(WrongCombination, match=problem) as error:
        validate(compose(*overrides))
    assert error.value.instead == instead


def test_what_can_be_no_id_of_the_hub_is_an_error(compose: Callable[..., Experiment], tmp_path: Path) -> None:
    for dry in (True, False):
        with pytest.raises(ConfigError, match="can't be the id of a dataset"):
            prepared(compose("data=alpaca", "data.hub_id=a/b/c").data, tmp_path, dry=dry)
