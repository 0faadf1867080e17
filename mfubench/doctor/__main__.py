"""`python -m mfubench.doctor [group=option] [key=value]`: what is ready on this machine, and what to run next.

Takes the command line of a run and flags of its own; prints tables or JSON.
Exit status: 0 a run of what was asked for can start; 3 something lacks, and the output names it; 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from mfubench.config import ConfigError
from mfubench.doctor.findings import examine, findings_as_json
from mfubench.doctor.findings_table import show_findings
from mfubench.files.terminal import begin_command

DOCTOR_COMMAND = "python -m mfubench.doctor"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings. Returns the exit status."""
    begin_command()
    parser = argparse.ArgumentParser(
        prog=DOCTOR_COMMAND,
        description="What each framework can do on this machine, what is installed, and what to run next.",
        epilog=f"{DOCTOR_COMMAND} hardware=cpu model=llama-3.1-8b",
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="group=option and key=value, as for a run")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = sys.argv[1:] if argv is None else list(argv)
    given = parser.parse_intermixed_args(arguments)
    try:
        findings = examine(given.overrides)
    except ConfigError as error:
        print(error.screen(arguments, DOCTOR_COMMAND), file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(findings_as_json(findings), indent=1))
    else:
        show_findings(findings, Console())
    return 3 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
