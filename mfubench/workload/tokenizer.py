"""Write the synthetic tokenizer, as files for transformers' AutoTokenizer; and list the words it knows.

A byte-level BPE in which every word of two syllables is one token when a space stands before it, so that synthetic text
costs about one token a word. It is constructed, not trained: the same bytes on every machine, made in milliseconds.
Any other text still round-trips, byte by byte.

The special tokens and the chat template are Llama 3's, because frameworks with templates of their own bring that one:
each of its tokens is in the vocabulary already, so no framework adds one and resizes the embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TURN = "<|eot_id|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (
    BEGIN_OF_TEXT,
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    END_OF_TURN,
    "<|eom_id|>",
    "<|python_tag|>",
    PAD,
)
SYLLABLES = tuple(consonant + vowel for consonant, vowel in product("bcdfghjklmnprstv", "aeiou"))
SYNTHETIC_WORDS = tuple(first + second for first, second in product(SYLLABLES, SYLLABLES))

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


def vocabulary() -> dict[str, int]:
    """Every token and its id: 256 bytes, syllables, syllables and words behind a space, special tokens (last)."""
    tokens = [*_byte_characters(), *(first + second for first, second in _merges()), *SPECIAL_TOKENS]
    assert len(set(tokens)) == len(tokens)
    return {token: identifier for identifier, token in enumerate(tokens)}


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`, which must exist."""
    named = {"bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TURN, "pad_token": PAD}
    _write_json(folder / "tokenizer.json", _tokenizer_json())
    _write_json(
        folder / "tokenizer_config.json",
        {
            **named,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write_json(folder / "special_tokens_map.json", named)


def _merges() -> list[tuple[str, str]]:
    """BPE merges in order: letters to a syllable, space to syllable, and spaced syllable to word.

    The order makes " babe" one token: b+a and b+e first, then Ġ+ba, then Ġba+be.
    """
    space = _byte_characters()[ord(" ")]
    return [
        *((syllable[0], syllable[1]) for syllable in SYLLABLES),
        *((space, syllable) for syllable in SYLLABLES),
        *((space + first, second) for first, second in product(SYLLABLES, SYLLABLES)),
    ]


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level BPE (GPT-2's table, by byte value).

    Bytes that are printable in Latin-1 stand for themselves; the others take the characters from U+0100 upwards.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (chr(0x100 + n) for n in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def _tokenizer_json() -> dict[str, object]:
    """The file format of the `tokenizers` library, as every version since 0.9 reads it."""
    identifiers = vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    begin = {"SpecialToken": {"id": BEGIN_OF_TEXT, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": identifiers[token], "content": token, **flags} for token in SPECIAL_TOKENS],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, *({"Sequence": {"id": part, "type_id": 0}} for part in "AB")],
            "special_tokens": {
                BEGIN_OF_TEXT: {"id": BEGIN_OF_TEXT, "ids": [identifiers[BEGIN_OF_TEXT]], "tokens": [BEGIN_OF_TEXT]}
            },
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for token, number in identifiers.items() if token not in SPECIAL_TOKENS},
            "merges": [f"{first} {second}" for first, second in _merges()],
        },
    }


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
