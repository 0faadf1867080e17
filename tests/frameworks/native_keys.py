"""The keys of a framework's native config: those that our YAML may write, and those that the installed framework knows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mfubench.files.paths import CONF, ROOT


def written(framework: str) -> set[str]:
    """Top-level keys that conf/framework/NAME.yaml may write: those of its base and of every branch, nested ones too."""
    ours = yaml.safe_load((CONF / "framework" / f"{framework}.yaml").read_text())
    return {*ours["base"], *_of_branches(ours["when"])}


def known(framework: str, script: str) -> set[str]:
    """What `script` prints, a key a line with a + before it, in the framework's own environment."""
    python = ROOT / "launchers" / framework / ".venv" / "bin" / "python"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {line[1:] for line in done.stdout.splitlines() if line.startswith("+")}


def _of_branches(when: Mapping[str, Any]) -> Iterator[str]:
    for branches in when.values():
        for content in branches.values():
            yield from (key for key in content if key != "when")
            yield from _of_branches(content.get("when", {}))
