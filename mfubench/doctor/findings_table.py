"""Print the Findings: missing parts first, then the matrix, its reasons, and commands to type next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfubench.doctor.findings import Findings
from mfubench.doctor.here import STATE_MISSING, STATE_READY, Environment
from mfubench.doctor.matrix import MatrixCell, MatrixRow
from mfubench.measure.metric_table import WORDS
from mfubench.plan.engines import label

SETTING_WIDTH = 32  # columns: beside eight frameworks the matrix has MATRIX_WIDTH
MATRIX_WIDTH = 100
MATRIX_LEGEND = "✓ runs here   full, lora: in these modes only   {other}: runs on one   –: doesn't run   ¹: see below"
SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
SHOWN_ALREADY = ("does not support ", "has no way to set ")  # by the matrix itself: needs no reason below it


def show_findings(findings: Findings, console: Console) -> None:
    """Print the findings."""
    for name, text in _about(findings).items():
        console.print(Text(f"{name:<11}", style="bold").append(text, style="not bold"), highlight=False)
    console.print()
    console.print(_frameworks(findings.environments))
    if findings.rows:
        reasons = _numbered_reasons(findings.rows)
        width, console.width = console.width, max(console.width, MATRIX_WIDTH)  # folded rows are harder to read
        console.print(_matrix(findings, reasons))
        console.width = width
        other = "CUDA" if findings.devices.machine.device == "cpu" else "CPU"
        console.print(MATRIX_LEGEND.format(other=other), style="dim", highlight=False)
        notes = Table.grid(padding=(0, 2))
        notes.add_column(justify="right")
        for reason, number in reasons.items():
            notes.add_row(str(number), Text(reason), style="dim")
        console.print(notes)
        console.print()
    for problem in findings.problems:
        console.print(problem, style="yellow", markup=False, highlight=False)
    console.print("try")
    for command in findings.commands:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _about(findings: Findings) -> dict[str, str]:
    machine, cache = findings.devices.machine, findings.cache
    device = f"{machine.num_devices} × {machine.device_name}" if machine.device == "cuda" else machine.device_name
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / 2**30:.0f} GiB"
    driver = "" if machine.driver is None else f", driver {machine.driver}"
    peaks = ", ".join(
        f"{dtype} {WORDS['TFLOP/s'](value / 1e12)} TFLOP/s" for dtype, value in findings.devices.peaks.items()
    )
    return {
        "mfubench": f"{findings.version}, Python {findings.python}",
        "device": f"{device}, {machine.cores} cores{memory}{driver}",
        "peak": ": ".join(filter(None, (peaks, findings.devices.source))) or "not known",
        "W&B": f"runs are logged {findings.tracking}" if findings.tracking != "disabled" else "off",
        "hub": "token found" if findings.hub_token else "no token: public models can be fetched, gated ones can't",
        "cache": f"{cache.folder}, {cache.free_bytes / 2**30:.0f} GiB free",
    }


def _frameworks(environments: dict[str, Environment]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("framework", "environment", "versions"):
        table.add_column(heading, no_wrap=heading != "versions")
    for name, environment in environments.items():
        state = Text(environment.state, "green" if environment.state == STATE_READY else "yellow")
        versions = ", ".join(f"{package} {version}" for package, version in environment.versions.items())
        table.add_row(label(name, environment.framework.engine), state, versions)
    return table


def _matrix(findings: Findings, reasons: dict[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name, environment in findings.environments.items():
        precision = findings.precisions[name]
        heading = name.replace("_", "_\n") + ("" if precision == "auto" else f"\n{precision}")
        table.add_column(heading, no_wrap=True, style="dim" if environment.state == STATE_MISSING else "")
    other = "CUDA" if findings.devices.machine.device == "cpu" else "CPU"
    for row in findings.rows:
        asked = f"{row.setting}={row.value}"
        table.add_row(
            asked if len(asked) <= SETTING_WIDTH else asked.replace("=", "\n  ="),
            *(_cell_in_words(row.cells[name], other, reasons) for name in findings.environments),
        )
    return table


def _cell_in_words(cell: MatrixCell, other: str, reasons: dict[str, int]) -> Text:
    notes = dict.fromkeys(map(_note, cell.reasons.values()))
    numbers = ",".join(str(reasons[note]) for note in notes if note in reasons).translate(SUPERSCRIPTS)
    if not cell.here:
        return Text((other if cell.elsewhere else "–") + numbers, style="" if cell.elsewhere else "dim")
    modes = "✓" if cell.everywhere else ",\n".join(cell.here)
    return Text(modes + numbers, style="green")


def _numbered_reasons(rows: Sequence[MatrixRow]) -> dict[str, int]:
    """Every reason once, in the order of the matrix."""
    said = (_note(reason) for row in rows for cell in row.cells.values() for reason in cell.reasons.values())
    notes = (note for note in dict.fromkeys(said) if not note.startswith(SHOWN_ALREADY))
    return {note: number for number, note in enumerate(notes, 1)}


def _note(reason: str) -> str:
    """A reason without its subject, which its place in the matrix shows."""
    return reason.partition(": ")[2] if reason.startswith("with ") else reason
