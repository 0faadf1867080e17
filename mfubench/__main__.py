"""Run the command `python -m mfubench [group=option] [key=value]`, and sweeps with `-m`.

Exit status: 0 every run is ok; 3 some run is not; 2 the command line is wrong and nothing was started; 1 an internal
error; 130 a sweep was ended by Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode

from mfubench import __version__
from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import (
    CONFIG_NAME,
    check_command_line,
    flags_first,
    in_files,
    job_overrides,
    resolved_yaml,
    store_schema,
    to_experiment,
)
from mfubench.config.errors import key_of
from mfubench.config.validate import validate
from mfubench.files import secrets
from mfubench.files.paths import CONF
from mfubench.files.terminal import begin_command

if TYPE_CHECKING:
    from rich.console import Console

    from mfubench.config.compose import Sweep
    from mfubench.result import Result

CANT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
CANT_WRITE_HERE = """mfubench: {why}: {where}
  runs are written below the working folder, or where hydra.run.dir=FOLDER says (a sweep: hydra.sweep.dir=FOLDER);
  what they share, below $MFUBENCH_CACHE"""
GO_ON = "\nto go on with this sweep, less what is ok:\n  {command}"

results: list[Result] = []  # of the jobs that ran in this process
sweeps: list[Sweep] = []  # the one that the jobs belong to, if any
took_s: list[float] = []  # seconds of each job that was run
shown: list[bool] = []  # of dry runs and other nodes: whether each could be run
refusals: list[ConfigError] = []  # Hydra would print a raised one in its own way


class CantWrite(BaseException):
    """Nothing can be written in this folder; ends a sweep before more is lost.

    Not an Exception: Hydra takes one for the job's return value and starts the next job.
    """


@hydra.main(version_base="1.3", config_path=str(CONF), config_name=CONFIG_NAME)
def job(composed: Any) -> float:
    """Run one job. Returns tokens/s/device for a sweeper to maximise, NaN unless the run is ok."""
    from rich.console import Console

    from mfubench.launch.interrupts import interrupted_once
    from mfubench.plan.nodes import node_rank
    from mfubench.report.job_lines import after_job
    from mfubench.result.job import done_before
    from mfubench.run import dry_run, follow, run
    from mfubench.tracking import log_or_warn
    from mfubench.workload.config_json import with_architecture

    chosen, console = HydraConfig.get(), Console(stderr=True)
    sweep = Path(chosen.sweep.dir).absolute() if chosen.mode == RunMode.MULTIRUN else None
    experiment, folder, began = to_experiment(composed), Path(chosen.runtime.output_dir), time.monotonic()
    if sweep is not None:
        _announce(chosen, console)
    try:
        experiment = with_architecture(experiment)
        if experiment.dry_run:
            shown.append(dry_run(experiment, folder, sweep, in_files(composed), console))
            return float("nan")
        if rank := node_rank(experiment.cluster, os.environ):
            shown.append(follow(experiment, rank, folder.absolute(), console))
            return float("nan")
        earlier = done_before(experiment, folder, sweep, console) if experiment.resume else None
        with interrupted_once():  # a Ctrl-C that comes too late for the run is raised here: its result is in the table
            varied = sweeps[0].varied if sweeps else ()
            result = earlier or run(experiment, folder, sweep, in_files(composed), console, varied)
            results.append(result)
    except ConfigError as error:
        refusals.append(error)
        return float("nan")
    except OSError as error:
        if error.errno not in CANT_WRITE:
            raise
        raise CantWrite(error, folder) from error
    if earlier is None:
        log_or_warn(result, experiment.tracking, console)
        took_s.append(time.monotonic() - began)
    if sweep is not None:
        console.print(after_job(result, results[:-1]), no_wrap=True, overflow="ellipsis", markup=False, highlight=False)
    in_our_process = not (sweeps and sweeps[0].elsewhere)
    if sweep is not None and in_our_process and earlier is None and result.stopped_by == "user":
        raise KeyboardInterrupt
    return result.measurement.tokens_per_second_per_device if result.measurement else float("nan")


def _announce(chosen: Any, console: Console) -> None:
    """Say which job of the sweep begins."""
    from mfubench.report.job_lines import before_job

    num_jobs, varied = (sweeps[0].num_jobs, sweeps[0].varied) if sweeps else (0, ())
    own = {key: override for override in job_overrides() if (key := key_of(override)) in varied}
    line = before_job(chosen.job.num + 1, num_jobs, list(own.values()), took_s)
    console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)


def check_experiment(experiment: Experiment) -> None:
    """Raise ConfigError for what is wrong on any machine, in the settings or in the user's own files."""
    from mfubench.workload.config_json import with_architecture

    validate(experiment := with_architecture(experiment))
    if experiment.data.path is not None:
        from mfubench.workload import check_data

        check_data(experiment.data)


def main() -> int:
    """Run the command line, print its table, and return the exit status."""
    begin_command()
    if "--version" in sys.argv[1:]:
        print(f"mfubench {__version__}")
        return 0
    store_schema()
    typed = flags_first(sys.argv[1:])
    sys.argv[1:] = typed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # what is raised in a job comes out of it as it is
    go_on, folder = "", Path.cwd()
    try:
        sweep = check_command_line(typed, check_experiment)
        if (resolved := resolved_yaml(typed)) is not None:
            print(resolved, end="")
        elif sweep is None:
            job()
        else:
            from mfubench.result import resume

            sweeps.append(sweep)
            folder = resume.claim_sweep_folder(sweep)
            sys.argv[1:] = [*typed, resume.sweep_dir_override(folder)]  # the last one wins
            with resume.locked_sweep(folder):
                go_on = GO_ON.format(command=resume.resume_command(typed, folder))
                _run_jobs(sweep, folder)
                go_on = ""
    except ConfigError as error:
        refusals.append(error)
    except HydraException as error:  # of a flag that only Hydra reads, as --config-path
        given = shlex.join(secrets.clean(argument) for argument in typed)
        expected = "flags and settings that --hydra-help and --help list"
        refusals.append(ConfigError(str(error).strip().splitlines()[0], given=given, expected=expected))
    except KeyboardInterrupt:
        return 130
    except (OSError, CantWrite) as error:
        cause, folder = error.args if isinstance(error, CantWrite) else (error, folder)
        if cause.errno not in CANT_WRITE:
            raise
        print(CANT_WRITE_HERE.format(why=cause.strerror, where=cause.filename or folder), file=sys.stderr)
        return 1
    finally:
        if results:
            _show(folder if sweeps else Path(results[0].provenance.folder))
        for refusal in refusals:
            print(refusal.screen([secrets.clean(argument) for argument in typed]), file=sys.stderr)
        if go_on and not refusals:
            print(go_on, file=sys.stderr)
    if refusals:
        return 2
    return 0 if all(result.status == "ok" for result in results) and all(shown) else 3


def _run_jobs(sweep: Sweep, folder: Path) -> None:
    """Run the sweep's jobs. Those that run elsewhere leave their results in its folder; one that is killed has none."""
    if not sweep.elsewhere:
        job()
        return
    from mfubench.result import find_results, read_result

    try:
        job()
    except Exception as error:  # of the launcher, about a job that left nothing
        print(f"mfubench: a job of this sweep has ended without a result: {str(error).strip()}", file=sys.stderr)
        shown.append(False)
    results[:] = map(read_result, find_results([folder]))


def _show(folder: Path) -> None:
    """Print the table of the results in `folder`, and on stderr where they lie."""
    from rich.console import Console

    from mfubench.report.job_lines import after_all
    from mfubench.report.published.tables import sections
    from mfubench.report.table import show

    measured = any(result.status == "ok" for result in results)
    show(results, Console(), sections(results) if measured else [])
    print("", *after_all(results, folder), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
