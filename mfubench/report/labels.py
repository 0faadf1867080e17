"""Name settings: framework and mode, and what else tells them apart, as in `framework lora · rank 16`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields

from mfubench.config import Liger
from mfubench.report.pooling import Pooled
from mfubench.report.ratios import TASK

HEAD = ("framework", "model", "mode")  # of every name; the model only if it differs, or in the name of a single setting
SEPARATOR = " · "


def labels(settings: Sequence[Pooled]) -> list[str]:
    """Name each setting; no two the same, but for runs that started in the same second.

    A value that most of the settings have isn't in their names unless it is a number, nor is one that follows from another in
    the name; but what was asked of a task, as its batch size, doesn't count as following from framework and mode.
    """
    rows, differing = in_short(settings), differing_settings(settings)
    head = tuple(key for key in HEAD if key != "model" or key in differing or len(rows) == 1)
    names, told = [" ".join(own[key] for key in head) for own in rows], [head]
    for key in differing:
        if key in head or any(_follows(key, known, rows) for known in (told[1:] if key in TASK else told)):
            continue
        told.append((key,))
        values = Counter(own[key] for own in rows)
        usual, count = values.most_common(1)[0]
        unsaid = usual if count > len(rows) / 2 and "" not in values and not usual.isdecimal() else ""
        said = [f"{SEPARATOR}{key} {own[key]}" if own[key] not in ("", unsaid) else "" for own in rows]
        names = [name + more for name, more in zip(names, said, strict=True)]
    times = [SEPARATOR + each.results[0].started_at[11:19] for each in settings]
    return [name + time * (names.count(name) > 1) for name, time in zip(names, times, strict=True)]


def differing_settings(settings: Sequence[Pooled]) -> tuple[str, ...]:
    """Return the keys of the settings that differ; a setting that isn't there (rank in mode full) is not another one."""
    rows = [each.settings for each in settings]
    return tuple(key for key in rows[0] if len({own[key] for own in rows if own[key] or "." in key}) > 1)


def in_short(settings: Sequence[Pooled]) -> list[dict[str, str]]:
    """Shorten values that are long lists, as 4 of 5 for Liger's kernels; those of a key stay whole if two became the same."""
    rows = [each.settings for each in settings]
    short = {key: {own[key]: _shortened(key, own[key].split(", ")) for own in rows} for key in rows[0]}
    ambiguous = {key for key, values in short.items() if len(set(values.values())) < len(values)}
    return [{key: cell if key in ambiguous else short[key][cell] for key, cell in own.items()} for own in rows]


def _shortened(key: str, items: Sequence[str]) -> str:
    if key == "liger" and items[0] in (switches := [switch.name for switch in fields(Liger)]):
        return f"{len(items)} of {len(switches)}"
    return ", ".join(items) if len(items) < 4 else f"{items[0]} … {items[-1]} ({len(items)})"


def _follows(key: str, known: Sequence[str], rows: Sequence[Mapping[str, str]]) -> bool:
    """Return True if rows that have the same `known` settings have the same `key`."""
    with_it, without = (len({tuple(own[one] for one in keys) for own in rows}) for keys in ((*known, key), known))
    return with_it == without
