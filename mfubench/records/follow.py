"""How far a run is while it runs. In: its records folder, looked at now and then. Out: periods and step times.

Only what was appended since the last look is read, so looking stays cheap however long the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mfubench.records.series import Series, events_of, host_times_s

RECENT_STEPS = 10


@dataclass(frozen=True)
class RankProgress:
    """Complete step periods of one process, and the mean of its last ones in seconds; None before the first."""

    periods: int
    recent_step_time_s: float | None


@dataclass
class _Followed:
    series: Series = field(default_factory=Series)
    offset: int = 0  # bytes of whole lines read


class Follower:
    """Follows the records in `folder`, which need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, _Followed] = {}

    def look(self) -> Mapping[str, RankProgress]:
        """Progress by file name: `rank0`, `rank1`, ...; reads what is new."""
        for path in sorted(self._folder.glob("rank*.jsonl")):
            self._read_on(path, self._files.setdefault(path, _Followed()))
        return {path.stem: _progress(followed.series) for path, followed in self._files.items()}

    def _read_on(self, path: Path, followed: _Followed) -> None:
        with path.open("rb") as file:
            file.seek(followed.offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # the writer may be in the middle of a line
        followed.offset += len(whole)
        for event in events_of(whole.decode(errors="replace")):
            followed.series.take(event)


def _progress(series: Series) -> RankProgress:
    recent = host_times_s(series, RECENT_STEPS)
    return RankProgress(series.periods, sum(recent) / len(recent) if recent else None)
