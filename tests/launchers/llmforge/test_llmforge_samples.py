"""From conversations to tokens and labels."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mfubench import workload
from mfubench.files.paths import LAUNCHERS


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    from transformers import AutoTokenizer

    (tmp_path / "tokenizer").mkdir()
    workload.tokenizer.write_tokenizer(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


TALK = [
    [{"role": "user", "content": "ba"}, {"role": "assistant", "content": "be bi"}],
    [{"role": "user", "content": "bo " * 60}],
    [
        {"role": "system", "content": "ba"},
        {"role": "user", "content": "\u2028 ca"},
        {"role": "assistant", "content": "ce"},
        {"role": "user", "content": "ci"},
        {"role": "assistant", "content": "co"},
    ],
]


def test_the_same_file_gives_the_tokens_that_transformers_trainer_trains_on(
    modules: SimpleNamespace, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps({"messages": turns}, ensure_ascii=False) for turns in TALK) + "\n")
    trainer = SimpleNamespace(**runpy.run_path(str(LAUNCHERS / "hf_trainer" / "train.py")))
    theirs = trainer.tokenized(
        tokenizer, trainer.DataArguments(train_file=str(path), max_length=48), tmp_path / "cache"
    )
    samples = modules.data.tokenized(modules.data.read_conversations(path), tokenizer, 48, "causal_lm")
    ours = modules.data.collator(tokenizer, "max_length", 48)(samples)
    for column in ("input_ids", "attention_mask", "labels"):
        assert ours[column].tolist() == theirs[column]
    longest = modules.data.collator(tokenizer, "longest", 48)(samples[:1])
    assert longest["input_ids"].tolist() == [theirs["input_ids"][0][: sum(theirs["attention_mask"][0])]]
    tokenizer.padding_side = "left"
    left = modules.data.collator(tokenizer, "max_length", 48)(samples[:1])
    assert left["labels"][0].tolist()[-longest["labels"].numel() :] == longest["labels"][0].tolist()
    assert set(left["labels"][0].tolist()[: -longest["labels"].numel()]) == {-100}


def test_instruction_tuning_trains_on_the_assistants_turns_alone(modules: SimpleNamespace, tokenizer: Any) -> None:
    first, last = modules.data.tokenized([TALK[0], TALK[2]], tokenizer, 64, "instruction_tuning")
    said = [[token for token in sample.labels if token != -100] for sample in (first, last)]
    assert [tokenizer.decode(tokens) for tokens in said] == ["be bi<|eot_id|>", "ce<|eot_id|>co<|eot_id|>"]
    assert all(label in (-100, token) for token, label in zip(last.tokens, last.labels, strict=True))
    with pytest.raises(modules.FileError, match="an assistant's turn in the first 64 tokens"):
        modules.data.tokenized([TALK[1]], tokenizer, 64, "instruction_tuning")


def test_the_context_is_what_95_of_100_samples_fit_into(modules: SimpleNamespace, tokenizer: Any) -> None:
    talk = [[{"role": "user", "content": "ba" + " ba" * n}] for n in range(100)]
    shortest = len(tokenizer.apply_chat_template(talk[0], tokenize=True)["input_ids"])
    assert modules.data.context_length(talk, tokenizer, 2048) == shortest + 94
    assert modules.data.context_length(talk, tokenizer, 64) == 64


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("{", "line 2: {"),
        ('{"instruction": "ba", "output": "be"}', "line 2: .*instruction"),
        ('{"messages": []}', "line 2"),
        ('{"messages": [{"role": "assistent", "content": "ba"}]}', "line 2: .*assistent"),
        ('{"messages": [{"role": "user"}]}', "line 2"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(modules: SimpleNamespace, folder: Path, line: str, given: str) -> None:
    (folder / "train.jsonl").write_text(json.dumps({"messages": TALK[0]}) + "\n" + line + "\n")
    with pytest.raises(modules.FileError, match=given):
        modules.data.read_conversations(folder / "train.jsonl")
    (folder / "train.jsonl").write_text("\n")
    with pytest.raises(modules.FileError, match="which is empty"):
        modules.data.read_conversations(folder / "train.jsonl")


def test_a_long_line_is_cut_and_neither_its_path_nor_the_reason_is(modules: SimpleNamespace, tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["a" * 100] * 2)
    deep.mkdir(parents=True)
    samples = deep / "train.jsonl"
    with pytest.raises(modules.FileError) as missing:
        modules.data.read_conversations(samples)
    samples.write_text("\n")
    with pytest.raises(modules.FileError) as empty:
        modules.data.read_conversations(samples)
    samples.write_text("x" * 200)
    with pytest.raises(modules.FileError) as wrong:
        modules.data.read_conversations(samples)
    assert missing.value.given == str(samples)
    assert empty.value.given == f"{samples}, which is empty"
    assert wrong.value.given == f"train.jsonl, line 1: {'x' * 97}..."
