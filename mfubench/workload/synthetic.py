"""Synthetic samples. In: how many, how long, a seed. Out: questions and answers of random words.

Every answer alone has more words, and so more tokens, than a sequence holds. Truncated to the sequence length, a sample
fills it, whatever a framework's prompt template adds: every micro-batch is [batch_size, sequence_length], without
padding, in every framework, with no need of packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from mfubench.workload.samples import Sample, exchange
from mfubench.workload.tokenizer import WORDS

QUESTION_WORDS = 12
# Any 16-bit number picks a word: drawing bytes and looking them up is some ten times faster than Random.choice.
_WORD_OF = tuple(WORDS[number % len(WORDS)] for number in range(2**16))


def synthetic_samples(*, num_samples: int, sequence_length: int, seed: int) -> Iterator[Sample]:
    """Samples of more than `sequence_length` tokens, the same for the same `seed`."""
    random = Random(seed)
    for _ in range(num_samples):
        drawn = memoryview(random.randbytes(2 * (QUESTION_WORDS + sequence_length + 1))).cast("H")
        words = [_WORD_OF[number] for number in drawn]
        yield exchange(" ".join(words[:QUESTION_WORDS]), "", " ".join(words[QUESTION_WORDS:]))
