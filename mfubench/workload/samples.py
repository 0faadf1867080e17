"""Training samples. In: conversations. Out: one JSONL file in each of the two common shapes.

Sample by sample, both files say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """A conversation: the role and content of each turn; and as instruction, input and output, where it is a question
    and its answer and nothing else."""

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
    """Write messages/train.jsonl and, where every sample has that shape, alpaca/train.jsonl into `folder`.

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
