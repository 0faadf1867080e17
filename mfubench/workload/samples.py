"""Training samples: conversations, written as one JSONL file in each of the two common shapes.

Both files hold the same samples in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mfubench.workload.tokenizer import SYNTHETIC_WORDS


@dataclass(frozen=True)
class Sample:
    """A conversation: role and content of each turn.

    One question and its answer are also kept as instruction, input and output.
    """

    messages: list[dict[str, str]]
    alpaca: dict[str, str] | None


def exchange(instruction: str, context: str, output: str) -> Sample:
    """The sample of an Alpaca row; `context` is its input, which may be empty.

    In a conversation a blank line stands between instruction and input, as in the project's own template
    (stanford_alpaca/train.py, PROMPT_DICT).
    """
    question = f"{instruction}\n\n{context}" if context else instruction
    return Sample(
        messages=[{"role": "user", "content": question}, {"role": "assistant", "content": output}],
        alpaca={"instruction": instruction, "input": context, "output": output},
    )


def write_samples(folder: Path, *, samples: Iterable[Sample], as_alpaca: bool) -> None:
    """Write messages/train.jsonl and, if every sample has that shape, alpaca/train.jsonl into `folder`.

    A line is {"messages": [{"role": ..., "content": ...}, ...]} in one, {"instruction", "input", "output"} in the other.
    """
    paths = {name: folder / name / "train.jsonl" for name in ("messages", "alpaca")}
    for name in ("messages", "alpaca") if as_alpaca else ("messages",):
        paths[name].parent.mkdir()
    with (
        paths["messages"].open("w", encoding="utf-8") as messages,
        paths["alpaca"].open("w", encoding="utf-8") if as_alpaca else nullcontext() as alpaca,
    ):
        for sample in samples:
            messages.write(json.dumps({"messages": sample.messages}) + "\n")
            if alpaca is not None:
                alpaca.write(json.dumps(sample.alpaca) + "\n")


ROLES = ("system", "user", "assistant")
ROW_SHAPES = '{"messages": [{"role": ..., "content": ...}, ...]} or {"instruction": ..., "input": ..., "output": ...}'
_JSON_WORDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string"}
_JSON_WORDS |= {list: "an array", dict: "an object"}


@dataclass(frozen=True)
class Rows:
    """A source of samples, every row of it checked."""

    first: list[Sample]  # no more than a run reads
    count: int  # rows in the source
    as_alpaca: bool  # every row is one question and its answer


def gather_rows(samples: Iterable[Sample], wanted: int) -> Rows:
    """Read all samples, and keep the first `wanted`."""
    first: list[Sample] = []
    count, as_alpaca = 0, True
    for sample in samples:
        if count < wanted:
            first.append(sample)
        count += 1
        as_alpaca = as_alpaca and sample.alpaca is not None
    return Rows(first, count, as_alpaca)


def sample_of(row: object) -> Sample:
    """The sample of a row in one of the ROW_SHAPES; `input` may be missing, null or empty. Other keys are ignored.

    Raises ValueError for anything else, with the mistake.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{_word(row)}, not an object")
    if "messages" in row:
        return _of_messages(row["messages"])
    if "instruction" in row and "output" in row:
        context = row.get("input")
        return exchange(
            _checked_text(row["instruction"], "instruction"),
            "" if context is None else _checked_text(context, "input"),
            _checked_text(row["output"], "output"),
        )
    raise ValueError(f"neither messages nor instruction and output; its keys are {', '.join(map(str, row)) or 'none'}")


def _of_messages(messages: object) -> Sample:
    if not isinstance(messages, list):
        raise ValueError(f"messages is {_word(messages)}, not an array")
    if not messages:
        raise ValueError("messages is empty")
    turns = [_turn(message, f"messages[{place}]") for place, message in enumerate(messages)]
    if [turn["role"] for turn in turns] == ["user", "assistant"]:
        return exchange(turns[0]["content"], "", turns[1]["content"])
    return Sample(messages=turns, alpaca=None)


def _turn(message: object, place: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{place} is {_word(message)}, not an object")
    for key in ("role", "content"):
        if key not in message:
            raise ValueError(f"{place} has no {key}; its keys are {', '.join(map(str, message)) or 'none'}")
    role = _checked_text(message["role"], f"{place}.role")
    if role not in ROLES:
        raise ValueError(f"{place}.role is {role!r:.40}, not one of {', '.join(ROLES)}")
    return {"role": role, "content": _checked_text(message["content"], f"{place}.content")}


def _checked_text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place} is {_word(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise ValueError(f"{place} has half of a character, {half!r}, which no tokenizer reads") from error
    return value


def _word(value: object) -> str:
    return _JSON_WORDS.get(type(value), f"a {type(value).__name__}")


QUESTION_WORDS = 12
# Any 16-bit number picks a word: drawing bytes and looking them up is some ten times faster than Random.choice.
_WORD_OF = tuple(SYNTHETIC_WORDS[number % len(SYNTHETIC_WORDS)] for number in range(2**16))


def synthetic_samples(*, num_samples: int, sequence_length: int, seed: int) -> Iterator[Sample]:
    """Samples of more than `sequence_length` tokens, the same for the same `seed`."""
    random = Random(seed)
    for _ in range(num_samples):
        drawn = memoryview(random.randbytes(2 * (QUESTION_WORDS + sequence_length + 1))).cast("H")
        words = [_WORD_OF[number] for number in drawn]
        yield exchange(" ".join(words[:QUESTION_WORDS]), "", " ".join(words[QUESTION_WORDS:]))
