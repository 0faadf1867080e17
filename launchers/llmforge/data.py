"""Read the samples: from a JSONL file of conversations to token lists, and to micro-batches of them.

Raises FileError for a file or a line that can't be trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fields import FileError
from schema import Settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")
IGNORED = -100  # label of an untrained token
Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Sample:
    """One conversation: as many labels as tokens; a label is its token, or IGNORED."""

    tokens: list[int]
    labels: list[int]


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of the file, in its order. Raises FileError with the number of the first bad line."""
    try:
        lines = path.read_text(encoding="utf-8").split(
            "\n"
        )  # splitlines would also split at characters that JSON allows in text
    except OSError as error:
        raise FileError("train_path", path, f"a JSONL file that can be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise FileError("train_path", "", "JSONL in UTF-8", place=f"{path}: {error}") from error
    read = [_conversation(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not read:
        raise FileError("train_path", "", "one conversation a line", place=f"{path}, which is empty")
    return read


def _conversation(path: Path, number: int, line: str) -> Conversation:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise FileError("train_path", line, f"JSON ({error})", place=f"{path.name}, line {number}: ") from error
    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list) or not messages or not all(_is_turn(turn) for turn in messages):
        expected = f'{{"messages": [{{"role": {" or ".join(ROLES)}, "content": text}}, ...]}}'
        raise FileError("train_path", line, expected, place=f"{path.name}, line {number}: ")
    return messages


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)


def read_samples(
    settings: Settings, conversations: Sequence[Conversation], limit: int
) -> tuple[list[Sample], int, PreTrainedTokenizerBase]:
    """Tokenize the conversations. Returns the samples, their maximum length (at most `limit`) and the tokenizer.

    Raises FileError as `tokenized` does.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings.model_id)
    length = settings.context_length or context_length(conversations, tokenizer, limit)
    return tokenized(conversations, tokenizer, length, settings.task), length, tokenizer


def context_length(conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, limit: int) -> int:
    """The length in tokens that 95 of 100 samples fit into, as LLMForge infers it, but no more than the model's limit."""
    encoded: Any = tokenizer.apply_chat_template(list(conversations), tokenize=True, return_dict=True)
    lengths = sorted(len(tokens) for tokens in encoded["input_ids"])
    return min(lengths[ceil(0.95 * len(lengths)) - 1], limit)


def tokenized(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, length: int, task: str
) -> list[Sample]:
    """Tokenize the samples, cut to `length` tokens; train on all tokens (causal_lm) or the assistant's (instruction_tuning).

    Raises FileError if a sample has no token to train on.
    """
    spans = task == "instruction_tuning"
    encoded: Any = tokenizer.apply_chat_template(
        list(conversations),
        tokenize=True,
        return_dict=True,
        truncation=True,
        max_length=length,
        tokenizer_kwargs={"return_offsets_mapping": spans},
    )
    if not spans:
        return [Sample(tokens, tokens) for tokens in encoded["input_ids"]]
    samples = []
    for conversation, tokens, offsets in zip(
        conversations, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        answers = assistant_spans(conversation, tokenizer)
        labels = [
            token if any(first <= start and start < end <= last for first, last in answers) else IGNORED
            for token, (start, end) in zip(tokens, offsets, strict=True)
        ]
        if all(label == IGNORED for label in labels):
            expected = f"an assistant's turn in the first {length} tokens of every sample, or causal_lm"
            raise FileError("task", f"{task} on {conversation}", expected)
        samples.append(Sample(tokens, labels))
    return samples


def assistant_spans(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """(first, last) character of the assistant's turns in the conversation's text, each with its end marker.

    Raises FileError if the chat template renders the beginning of a conversation differently from that beginning alone.
    """

    def text(turns: Conversation, asks: bool) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks))

    whole = text(conversation, False)
    spans = []
    for turn, message in enumerate(conversation):
        if message["role"] != "assistant":
            continue
        before, after = text(conversation[:turn], True), text(conversation[: turn + 1], False)
        if not (whole.startswith(before) and whole.startswith(after)):
            raise FileError(
                "task",
                "instruction_tuning",
                "causal_lm: this model's chat template doesn't show where the assistant's turns begin and end",
            )
        spans.append((len(before), len(after)))
    return spans


def collator(
    tokenizer: PreTrainedTokenizerBase, padding: str, length: int
) -> Callable[[list[Sample]], dict[str, Tensor]]:
    """Make a function that turns samples into input_ids, attention_mask and labels, each [samples, positions].

    They are padded on the tokenizer's side to `length` positions (padding max_length) or to the longest sample (longest).
    """
    import torch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    left = tokenizer.padding_side == "left"

    def collate(samples: list[Sample]) -> dict[str, Tensor]:
        positions = length if padding == "max_length" else max(len(sample.tokens) for sample in samples)

        def padded(rows: list[list[int]], filler: int) -> Tensor:
            fillers = [[filler] * (positions - len(row)) for row in rows]
            return torch.tensor([f + row if left else row + f for f, row in zip(fillers, rows, strict=True)])

        return {
            "input_ids": padded([sample.tokens for sample in samples], pad),
            "attention_mask": padded([[1] * len(sample.tokens) for sample in samples], 0),
            "labels": padded([sample.labels for sample in samples], IGNORED),
        }

    return collate
