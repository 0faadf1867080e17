"""Synthetic training samples. In: how many, how long, a seed. Out: one JSONL file in each of the two common shapes.

Every answer alone has more words, and so more tokens, than a sequence holds. Truncated to the sequence length, a sample
fills it, whatever a framework's prompt template adds: every micro-batch is [batch_size, sequence_length], without
padding, in every framework, with no need of packing.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from mfubench.workload.tokenizer import WORDS

QUESTION_WORDS = 12
# Any 16-bit number picks a word: drawing bytes and looking them up is some ten times faster than Random.choice.
_WORD_OF = tuple(WORDS[number % len(WORDS)] for number in range(2**16))


def write_samples(folder: Path, *, num_samples: int, sequence_length: int, seed: int) -> None:
    """Write messages/train.jsonl and alpaca/train.jsonl into `folder`; sample by sample they say the same.

    A line is {"messages": [{"role": ..., "content": ...}, ...]} in one, {"instruction", "input", "output"} in the other.
    """
    random = Random(seed)
    answer_words = sequence_length + 1
    (folder / "messages").mkdir()
    (folder / "alpaca").mkdir()
    with (
        (folder / "messages" / "train.jsonl").open("w", encoding="utf-8") as messages,
        (folder / "alpaca" / "train.jsonl").open("w", encoding="utf-8") as alpaca,
    ):
        for _ in range(num_samples):
            drawn = memoryview(random.randbytes(2 * (QUESTION_WORDS + answer_words))).cast("H")
            words = [_WORD_OF[number] for number in drawn]
            question, answer = " ".join(words[:QUESTION_WORDS]), " ".join(words[QUESTION_WORDS:])
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            messages.write(json.dumps({"messages": turns}) + "\n")
            alpaca.write(json.dumps({"instruction": question, "input": "", "output": answer}) + "\n")
