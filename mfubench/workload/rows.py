"""Turn a row, in any layout that trainers read, into a Sample."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mfubench.workload.samples import Sample, exchange

ROW_SHAPES = "messages or conversations, instruction and output, prompt and completion, or text (docs/settings.md)"
CONVERSATIONS = ("messages", "conversations", "conversation")
QUESTIONS = ("instruction", "prompt", "question", "query", "input")
CONTEXTS = ("input", "context")
ANSWERS = ("output", "completion", "response", "answer")
# Roles, and those that a run trains them as: every chat template has these three, and no tool's results.
ROLES = {role: role for role in ("system", "user", "assistant")} | {"developer": "system", "human": "user"}
ROLES |= dict.fromkeys(("gpt", "chatgpt", "bot", "model", "function_call"), "assistant")
OF_TOOLS = ("tool", "function", "ipython", "observation", "function_response")
ROLES |= dict.fromkeys(OF_TOOLS, "user")
# Forms of samples that not every row has and some frameworks need, as ${workload.FORM_path} in their files.
FORMS = {"alpaca": "one question and its answer", "turns": "turns of user and assistant, after a system turn at most"}
_JSON_WORDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string"}
_JSON_WORDS |= {list: "an array", dict: "an object"}


@dataclass(frozen=True)
class Rows:
    """A source of samples, every row of it checked."""

    first: list[Sample]  # no more than a run reads
    count: int  # rows in the source
    first_other: dict[str, int]  # of FORMS that not all rows have: the number of the first without it


def gather_rows(samples: Iterable[Sample], wanted: int) -> Rows:
    """Read all samples, and keep the first `wanted`."""
    first: list[Sample] = []
    count, first_other = 0, dict[str, int]()
    for count, sample in enumerate(samples, 1):
        if count <= wanted:
            first.append(sample)
        for form in FORMS:
            if not (sample.alpaca if form == "alpaca" else in_turns(sample)):
                first_other.setdefault(form, count)
    return Rows(first, count, first_other)


def in_turns(sample: Sample) -> bool:
    """True if the user and the assistant take turns, after a system turn at most."""
    return bool(re.fullmatch("(system )?(user assistant )+", "".join(f"{turn['role']} " for turn in sample.messages)))


def sample_of(row: object) -> Sample:
    """The sample of a row in one of the ROW_SHAPES; a text is the answer to an empty question. Other keys are ignored.

    Raises ValueError for anything else, with the mistake.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{_word(row)}, not an object")
    if (name := _first_of(CONVERSATIONS, row)) is not None:
        return _of_turns(_turns(row[name], name), row)
    question, answer = _first_of(QUESTIONS, row), _first_of(ANSWERS, row)
    if question is not None and answer is not None:
        if isinstance(row[question], list) and isinstance(row[answer], list):  # both are messages
            return _of_turns([*_turns(row[question], question), *_turns(row[answer], answer)], row)
        context = next((name for name in CONTEXTS if name != question and row.get(name) is not None), None)
        between = "" if context is None else _checked_text(row[context], context)
        return exchange(_checked_text(row[question], question), between, _checked_text(row[answer], answer))
    if "text" in row:
        return exchange("", "", _checked_text(row["text"], "text"))
    raise ValueError(f"no layout that is known; its keys are {', '.join(map(str, row)) or 'none'}")


def _of_turns(turns: list[dict[str, str]], row: Mapping[str, object]) -> Sample:
    """The sample of a conversation, with the `system` and the `tools` that stand beside it in its row."""
    if isinstance(system := row.get("system"), str) and system and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": _checked_text(system, "system")}, *turns]
    if tools := row.get("tools"):
        text = _checked_text(_as_text(tools), "tools")
        turns = [{**turns[0], "content": f"{text}\n\n{turns[0]['content']}"}, *turns[1:]]
    if [turn["role"] for turn in turns] == ["user", "assistant"]:
        return exchange(turns[0]["content"], "", turns[1]["content"])
    return Sample(messages=turns, alpaca=None)


def _turns(messages: object, name: str) -> list[dict[str, str]]:
    """The turns; results of tools that follow each other are one turn."""
    if not isinstance(messages, list):
        raise ValueError(f"{name} is {_word(messages)}, not an array")
    if not messages:
        raise ValueError(f"{name} is empty")
    turns: list[dict[str, str]] = []
    for place, message in enumerate(messages):
        given, content = _turn(message, f"{name}[{place}]")
        if given in OF_TOOLS and turns and turns[-1]["role"] == ROLES[given]:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": ROLES[given], "content": content})
    return turns


def _turn(message: object, place: str) -> tuple[str, str]:
    """The role as it is given, and the content with the tool calls behind it."""
    if not isinstance(message, Mapping):
        raise ValueError(f"{place} is {_word(message)}, not an object")
    role_key, key = _first_of(("role", "from"), message), _first_of(("content", "value"), message) or "content"
    calls = message.get("tool_calls") or message.get("function_call")
    if role_key is None or (key not in message and not calls):
        missing = "role" if role_key is None else "content"
        raise ValueError(f"{place} has no {missing}; its keys are {', '.join(map(str, message)) or 'none'}")
    role = _checked_text(message[role_key], f"{place}.{role_key}")
    if role not in ROLES:
        raise ValueError(f"{place}.{role_key} is {role!r:.40}, not one of {', '.join(ROLES)}")
    content = "" if calls and message.get(key) is None else _content(message[key], f"{place}.{key}")
    called = _checked_text(_as_text(calls), f"{place}.tool_calls") if calls else ""
    return role, "\n".join(filter(None, (content, called)))


def _content(value: object, place: str) -> str:
    """The text of a content, or of its parts."""
    if not isinstance(value, list):
        return _checked_text(value, place)
    for number, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("text") is None:
            kind = part.get("type", "no type") if isinstance(part, Mapping) else _word(part)
            raise ValueError(f"{place}[{number}] is {kind} without text, and a run trains on text; leave such rows out")
    return "".join(_checked_text(part["text"], f"{place}[{number}].text") for number, part in enumerate(value))


def _first_of(names: Sequence[str], row: Mapping[str, object]) -> str | None:
    return next((name for name in names if name in row), None)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


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
