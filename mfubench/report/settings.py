"""Put the settings of results into words, by the names under which they are set: they tell the rows of a table apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mfubench.config.vocabulary import CHOSEN_OF_FRAMEWORK, LEFT_OPEN, packages
from mfubench.measure.metric_table import rounded
from mfubench.result.flat import at, leaves
from mfubench.result.result_file import Result

# Groups whose every key may tell rows apart, and what stands before the key: framework.native.optim is native.optim.
DETAILS = {
    "framework.native": "native.",
    "mode": "mode.",
    "model": "model.",
    "model.architecture": "architecture.",
    "parallelism": "parallelism.",
    "data": "data.",
    "measurement": "measurement.",
}
NATIVE_PREFIX = "native."
COMMIT = 9  # of its letters
ALREADY_NAMED = ("name", "rank", "num_devices", "num_nodes", "padding", "architecture")


def describe(results: Sequence[Result]) -> list[dict[str, str]]:
    """The settings of each result in words, the same keys for all, in the order of a table's columns.

    After those of `in_words` come the user's native keys (which win over those names), and what differs between runs that
    are alike by name: keys of the same mode, model, data or measurement, devices, peaks, versions. Which of several fresh
    processes a run was (`repeat`) is not among them.
    """
    found = [settings_in_words(result.settings, result.framework, _precision(result, results)) for result in results]
    for path, prefix in DETAILS.items():
        details = [_details_of(result.settings, path) for result in results]
        options = [result.settings[path.partition(".")[0]]["name"] for result in results]
        for key in dict.fromkeys(key for each in details for key in each):
            cells = [each.get(key, "") for each in details]
            if prefix == NATIVE_PREFIX or _differ(options, cells):
                _add(found, prefix + key, cells)
    frameworks = [result.framework for result in results]
    devices = [getattr(result.hardware, "device_name", None) for result in results]
    for key, alike, known in (
        ("device", [""] * len(results), devices),
        ("peak", devices, [_peak_text(result) for result in results]),
        ("random_weights", frameworks, [result.settings["framework"]["random_weights"] for result in results]),
        ("recipe", frameworks, [_recipe(result) for result in results]),
        ("versions", frameworks, _versions(results)),
        ("mfubench", [""] * len(results), [_mfubench(result) for result in results]),
    ):
        if _differ(alike, known):
            _add(found, key, [cell or "" for cell in known])
    return [{one_line(key): one_line(cell) for key, cell in own.items()} for own in found]


def settings_in_words(asked: Mapping[str, Any], framework: str, precision: str | None) -> dict[str, str]:
    """The settings of a run by the names under which they are set; `framework` with its engine, the resolved precision."""
    devices, nodes = asked["parallelism"]["num_devices"], asked["parallelism"].get("num_nodes", 1)
    left_open = LEFT_OPEN.values() if asked.get("comparison") == "defaults" else ()
    return {
        "framework": framework,
        "model": asked["model"]["name"],
        "mode": asked["mode"]["name"],
        "rank": str(asked["mode"]["rank"] or ""),
        "parallelism": asked["parallelism"]["name"]
        + (f" ×{devices}" if devices > 1 else "")
        + (f" on {nodes} nodes" if nodes > 1 else ""),
        "checkpointing": asked["gradient_checkpointing"]["name"],
        "batch": str(asked["batch_size"] or ""),  # 0: a watched command's, not known
        "sequence": str(asked["sequence_length"] or ""),
        "accumulation": str(asked["gradient_accumulation_steps"] or ""),
        "precision": precision or asked["precision"],
        "attention": asked["attention"],
        "liger": _liger(asked),
        "data": asked["data"]["name"],
        "padding": asked["data"]["padding"] if asked["data"]["name"] != "synthetic" else "",
        "compile": "on" if asked["torch_compile"] else "off",
        "optimizer": asked["optimizer"],
        "measurement": asked["measurement"]["name"],
        "seed": str(asked["seed"]),
    } | {setting.reported: "its own" for setting in left_open}


def weighty_versions(result: Result) -> dict[str, str]:
    """Return the versions that matter of the framework's environment, and the driver; none if unknown."""
    driver = getattr(result.hardware, "driver", None)
    framework = result.settings["framework"]["name"].lower()
    wanted = {framework.replace("_", "-"), framework.replace("_", ""), *packages("step")}
    installed = {
        name.lower().replace("_", "-"): version for name, version in result.provenance.framework_environment.items()
    }
    told = {name: installed[name] for name in sorted(wanted) if name in installed}
    return told | {"driver": driver} if told and driver else told


def _precision(result: Result, others: Sequence[Result]) -> str | None:
    """Return the resolved precision; of a run that never began, that of all others which asked for the same."""
    alike = (
        [result] if result.hardware else [o for o in others if o.settings["precision"] == result.settings["precision"]]
    )
    resolved = {each.hardware.precision for each in alike if each.hardware}
    return resolved.pop() if len(resolved) == 1 else None


def one_line(text: str) -> str:
    """The text without line breaks and without what a terminal would obey: a result may be somebody else's."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _add(found: Sequence[dict[str, str]], key: str, cells: Sequence[str]) -> None:
    for own, cell in zip(found, cells, strict=True):
        own[key] = cell


def _differ(alike: Sequence[str | None], cells: Sequence[str | None]) -> bool:
    """Return True if runs that are alike have several values; None means unknown and is no value."""
    known = {(one, cell) for one, cell in zip(alike, cells, strict=True) if cell is not None}
    return len(known) > len({one for one, _ in known})


def _details_of(asked: Mapping[str, Any], path: str) -> dict[str, str]:
    """The keys of a group, but for those that have columns of their own."""
    tree = {key: value for key, value in at(asked, path).items() if key not in ALREADY_NAMED}
    return {key: "" if value is None else str(value) for key, value in leaves(tree)}


def _liger(asked: Mapping[str, Any]) -> str:
    """off, or the kernels that were asked for."""
    chosen = [switch for switch, on in asked["liger"].items() if on] if asked["liger_kernel"] else []
    return ", ".join(chosen) or "off"


def _peak_text(result: Result) -> str | None:
    """The data sheet's, or the user's own; one that was measured differs from run to run and tells nothing apart."""
    hardware = result.hardware
    if not hardware or not hardware.peak_flops_per_second or hardware.peak_measured:
        return None
    return f"{rounded(hardware.peak_flops_per_second / 1e12, 4)} TFLOP/s"


def _mfubench(result: Result) -> str:
    """Return mfubench's version, with its commit if known."""
    commit, _, changed = (result.provenance.commit or "").partition("-")
    return " ".join(filter(None, (result.provenance.mfubench, commit[:COMMIT], changed)))


def _recipe(result: Result) -> str:
    """Return a digest of the framework's configuration, which differs if its files were changed between two runs."""
    recipe = {key: value for key, value in result.settings["framework"].items() if key not in CHOSEN_OF_FRAMEWORK}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def _versions(results: Sequence[Result]) -> list[str | None]:
    """Return, for each result, the versions that differ between runs of a framework; None if unknown."""
    weighty = [weighty_versions(result) for result in results]
    frameworks = [result.framework for result in results]
    names = [
        name
        for name in dict.fromkeys(name for own in weighty for name in own)
        if _differ(frameworks, [own.get(name, "none") if own else None for own in weighty])
    ]
    return [", ".join(f"{name} {own[name]}" for name in names if name in own) if own else None for own in weighty]
