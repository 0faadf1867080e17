"""Training samples: conversations, written as one JSONL file in each of the two common shapes.

Both files hold the same samples in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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
