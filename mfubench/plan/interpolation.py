"""Merge layers of a configuration and fill in their ${...}, whose names only the plan of a run knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfubench.config import ConfigError


def resolve(where: str, layers: list[dict[str, Any]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the layers (lists are replaced) and fill in every ${...}. Raises ConfigError, which names the file `where`."""
    from omegaconf import OmegaConf  # 25 ms, which a report doesn't need
    from omegaconf.errors import OmegaConfBaseException

    merged = OmegaConf.merge(*(OmegaConf.create(layer) for layer in layers))
    root = OmegaConf.create({**known, "it": merged})
    try:
        resolved: Any = OmegaConf.to_container(root.it, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{where}: {str(error).splitlines()[0]}",
            given="an interpolation of what isn't there",
            expected=f"${{...}} of {', '.join(known)}",
        ) from error
    return dict(resolved)


def spliced(command: list[Any]) -> list[str]:
    """Return argv; an element that is a list stands for its elements."""
    return [word for item in command for word in (spliced(item) if isinstance(item, list) else [str(item)])]


def drop_nulls(tree: Any) -> Any:
    """Return the tree without mappings' keys whose value is None."""
    if isinstance(tree, dict):
        return {key: drop_nulls(value) for key, value in tree.items() if value is not None}
    return tree
