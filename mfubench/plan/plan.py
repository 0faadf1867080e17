"""The plan of a run, all that starting the framework takes, and the files written for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RECORDS = "records"


@dataclass(frozen=True)
class Plan:
    """Everything that starting the framework takes, and what the run must show for it."""

    command: tuple[str, ...]  # as it is started on each node
    environment: Mapping[str, str]  # laid over the parent's
    config_path: Path  # the native config
    config_text: str
    other_files: Mapping[str, str]  # what the native config refers to, by its name in the run folder
    folder: Path
    num_ranks: int
    max_steps: int | None  # optimizer steps asked of the framework; None: it ends when it will
    periods: int  # step periods needed on every rank: warm-up and measured
    timeout_s: float
    # Of a user's own command, which also keeps its environment and its terminal. None: the run folder, and a log.
    working_folder: Path | None = None
    per_node: tuple[str, ...] = ()  # argv in front of the command that starts it on every node; (): only here
    end: str | None = None  # a shell's command that ends what is left on other nodes
    shared: Path | None = None  # the folder with the records, if it isn't this one

    @property
    def records(self) -> Path:
        """The folder the probe writes to."""
        return (self.shared or self.folder) / RECORDS

    @property
    def log(self) -> Path:
        """The file with the framework's output."""
        return self.folder / "framework.log"

    @property
    def scratch(self) -> Path:
        """A folder the framework may write to; it is deleted after the run."""
        return self.folder / "scratch"


def write_files(plan: Plan) -> None:
    """Write the native config, and the files it refers to, into the run folder."""
    for name, text in {plan.config_path.name: plan.config_text, **plan.other_files}.items():
        (plan.folder / name).write_text(text)


@dataclass(frozen=True)
class PlanFile:
    """The plan as plan.json and the result hold it."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    config_file: str  # name of the native config
    config: str
    other_files: Mapping[str, str]  # name → text
    num_ranks: int
    max_steps: int | None  # None: the framework was asked for no number of steps
    periods: int
    timeout_s: float


def plan_file(plan: Plan) -> PlanFile:
    """Return the plan without its paths."""
    return PlanFile(
        command=(*plan.per_node, *plan.command),
        environment=plan.environment,
        config_file=plan.config_path.name,
        config=plan.config_text,
        other_files=plan.other_files,
        num_ranks=plan.num_ranks,
        max_steps=plan.max_steps,
        periods=plan.periods,
        timeout_s=plan.timeout_s,
    )
