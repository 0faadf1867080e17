"""A tokenizer for torchtune: Llama 3's conversation format with the tokens of a folder in the hub's format.

torchtune's own Llama 3 tokenizer reads Meta's file alone, and its special tokens are numbers beyond 128,000: a small model
would be nearly all embedding and output layer.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from torchtune.data import Message
from torchtune.models.llama3 import Llama3Tokenizer


class HubTokenizer(Llama3Tokenizer):
    """Llama 3's conversation format, from the tokenizer.json and tokenizer_config.json in `folder`.

    `padding` max_length: every sample is padded to `max_seq_len` tokens, without a loss on the padding; longest: torchtune's
    collator pads to the longest of a micro-batch. Raises ValueError if a token of the format is missing.
    """

    def __init__(self, folder: str, max_seq_len: int, padding: str) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        named = json.loads(Path(folder, "tokenizer_config.json").read_text(encoding="utf-8"))

        def number(token: str) -> int:
            found = self._tokenizer.token_to_id(token)
            if found is None:
                raise ValueError(f"{folder}/tokenizer.json has no {token}, a token of Llama 3's conversation format")
            return found

        self.bos_id = number("<|begin_of_text|>")
        self.eos_id = number("<|end_of_text|>")
        self.start_header_id = number("<|start_header_id|>")
        self.end_header_id = number("<|end_header_id|>")
        self.eot_id = number("<|eot_id|>")
        self.eom_id = number("<|eom_id|>")
        self.python_tag = number("<|python_tag|>")
        self.pad_id = number(named["pad_token"])
        self.max_seq_len = max_seq_len
        self.prompt_template = None
        self._fill = padding == "max_length"

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Token ids of plain text."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self.bos_id] * add_bos + ids + [self.eos_id] * add_eos

    def tokenize_messages(
        self, messages: list[Message], *, add_end_tokens: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and for each True if the loss leaves it out.

        torchtune masks the first and the last token; here they are masked like their neighbours.
        """
        tokens, mask = super().tokenize_messages(messages, add_end_tokens=add_end_tokens)
        mask[0], mask[-1] = mask[1], mask[-2]
        missing = self.max_seq_len - len(tokens) if self._fill else 0
        return tokens + [self.pad_id] * missing, mask + [True] * missing
