"""How far a run is while it runs. In: its records folder, looked at now and then. Out: periods and step times.

Only what was appended since the last look is read, so looking stays cheap however long the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mfubench.records.series import Series, events_of

RECENT_STEPS = 10


@dataclass(frozen=True)
class RankProgress:
    """The complete step periods of one process, by the clock that counts in the end: `RankRecord.step_times_s` so far."""

    step_times_s: Sequence[float]

    @property
    def periods(self) -> int:
        """How many there are."""
        return len(self.step_times_s)

    @property
    def recent_step_time_s(self) -> float | None:
        """The mean of the last ones; None before the first."""
        recent = self.step_times_s[-RECENT_STEPS:]
        return sum(recent) / len(recent) if recent else None


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
        return {path.stem: RankProgress(followed.series.step_times_s) for path, followed in self._files.items()}

    def _read_on(self, path: Path, followed: _Followed) -> None:
        with path.open("rb") as file:
            file.seek(followed.offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # the writer may be in the middle of a line
        followed.offset += len(whole)
        for event in events_of(whole.decode(errors="replace")):
            followed.series.take(event)
