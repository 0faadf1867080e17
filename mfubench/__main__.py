"""The command: `python -m mfubench [group=option] [key=value]`, and `-m` for sweeps.

Exit status: 0 every run is ok; 3 some run is not; 2 the command line is wrong and nothing was started; 1 a mistake of
ours; 130 a sweep was ended by Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from mfubench import __version__
from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import CONFIG_NAME, check_command_line, flags_first, store_schema, to_experiment
from mfubench.config.validate import validate
from mfubench.paths import CONF

if TYPE_CHECKING:
    from mfubench.report import Result

CANT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
CANT_WRITE_HERE = """mfubench: {why}: {where}
  runs are written below the working folder, or where hydra.run.dir=FOLDER says (a sweep: hydra.sweep.dir=FOLDER);
  what they share, below $MFUBENCH_CACHE"""

results: list[Result] = []  # of the jobs that ran in this process
shown: list[bool] = []  # of dry runs: whether each could be run
refusals: list[ConfigError] = []  # Hydra would print a raised one in its own way


@hydra.main(version_base="1.3", config_path=str(CONF), config_name=CONFIG_NAME)
def job(composed: Any) -> float:
    """One job: measured, written, tracked. Returns what a sweeper may maximise: tokens/s/device, NaN unless ok."""
    from rich.console import Console

    from mfubench.run import dry_run, run

    chosen = HydraConfig.get()
    sweep = Path(chosen.sweep.dir).name if chosen.mode == RunMode.MULTIRUN else None
    experiment, folder = to_experiment(composed), Path(chosen.runtime.output_dir)
    try:
        if experiment.dry_run:
            shown.append(dry_run(experiment, folder, sweep, Console(stderr=True)))
            return float("nan")
        result = run(experiment, folder, sweep, Console(stderr=True))
    except ConfigError as error:
        refusals.append(error)
        return float("nan")
    results.append(result)
    if sweep is not None and result.stopped_by == "user":
        raise KeyboardInterrupt
    return float(result.measurement["tokens_per_second_per_device"]) if result.measurement else float("nan")


def check(experiment: Experiment) -> None:
    """Raise ConfigError for what is wrong on any machine: settings, and the user's own file."""
    validate(experiment)
    if experiment.data.path is not None:
        from mfubench.workload import check_data

        check_data(experiment.data)


def main() -> int:
    """Run what the command line asks for, print its table; the exit status."""
    if "--version" in sys.argv[1:]:
        print(f"mfubench {__version__}")
        return 0
    store_schema()
    sys.argv[1:] = flags_first(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # what is raised in a job comes out of it as it is
    try:
        check_command_line(sys.argv[1:], check)
        job()
    except ConfigError as error:
        refusals.append(error)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in CANT_WRITE:
            raise
        print(CANT_WRITE_HERE.format(why=error.strerror, where=error.filename), file=sys.stderr)
        return 1
    finally:
        if results:
            _show()
        for refusal in refusals:
            print(refusal.screen(sys.argv[1:]), file=sys.stderr)
    if refusals:
        return 2
    return 0 if all(result.status == "ok" for result in results) and all(shown) else 3


def _show() -> None:
    from rich.console import Console

    from mfubench.report.table import show

    show(results, Console())


if __name__ == "__main__":
    sys.exit(main())
