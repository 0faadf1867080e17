"""Runs that are on W&B → a saved workspace that compares them, and its address."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from mfubench.tracking.client import client
from mfubench.tracking.content import PROFILED

# Okabe and Ito's colours, which the colour-blind tell apart, too: one for each framework.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
COLUMNS = ("mfu", "step_time_s", "tokens_per_second_per_device", "peak_memory_bytes", "status")
BY_STEP = {
    "step_time_s": "Step time in s",
    "tokens_per_second_per_device": "Tokens per second and device",
    "mfu": "MFU (fraction of the peak)",
    "hfu": "HFU (fraction of the peak)",
    PROFILED: "Profiled TFLOP of a step and device",
}


def save(name: str, entity: str, project: str, frameworks: Mapping[str, str]) -> str:
    """Save the workspace `name` of a project that shows these runs, by id, each with its framework's label; its address.

    A workspace that was saved there under this name before is replaced.
    """
    with client("online"):
        import wandb_workspaces.workspaces as ws

        workspace = ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=[ws.Section(name="Comparison", panels=_panels(len(frameworks)), is_open=True, pinned=True)],
            settings=ws.WorkspaceSettings(max_runs=len(frameworks)),
            runset_settings=ws.RunsetSettings(
                filters=ws.And(ws.Metric("ID").isin(list(frameworks))),
                order=[ws.Ordering(ws.Summary("mfu"), ascending=False)],
                run_settings={run: ws.RunSettings(color=colour) for run, colour in _colours(frameworks).items()},
                pinned_columns=[f"summary:{name}" for name in COLUMNS],
            ),
        )
        digest = hashlib.sha256(f"{entity}/{project}/{name}".encode()).hexdigest()[:11]
        # By this name W&B knows it. The package would make up another for each save, and leave each save beside the last.
        workspace._internal_name = f"nw-{digest}-v"
        workspace._internal_id = _id_of_saved(entity, project, digest)
        workspace.save()
        return str(workspace.url)


def _panels(num_runs: int) -> list[Any]:
    """MFU in bars, figures by step, throughput and memory over the batch size, and what the runs differ in."""
    from wandb_workspaces.reports.v2 import BarPlot, Config, LinePlot, RunComparer, ScatterPlot, SummaryMetric

    batch_size, tokens = Config("batch_size"), "tokens_per_second_per_device"
    mfu: dict[str, Any] = {"metrics": ["mfu"], "max_runs_to_show": num_runs, "max_bars_to_show": num_runs}
    mean: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax", **mfu}
    return [
        BarPlot(title="MFU by framework: mean, least and most of its runs", groupby=Config("framework.label"), **mean),
        BarPlot(title="MFU by batch size: mean, least and most of its runs", groupby=batch_size, **mean),
        BarPlot(title="MFU of each run", **mfu),
        *(
            LinePlot(
                title=f"{title}, warm-up included",
                x="step",
                y=[metric],
                title_x="optimizer step",
                ignore_outliers=True,  # of the scale: the first step may take a hundred times as long as the others
                max_runs_to_show=num_runs,
            )
            for metric, title in BY_STEP.items()
        ),
        ScatterPlot(title=f"{BY_STEP[tokens]} over batch size", x=batch_size, y=SummaryMetric(tokens)),
        ScatterPlot(title="Peak memory in bytes over batch size", x=batch_size, y=SummaryMetric("peak_memory_bytes")),
        RunComparer(diff_only="split"),
    ]


def _colours(frameworks: Mapping[str, str]) -> dict[str, str]:
    """Return a colour for each run; the runs of a framework share one."""
    labels = sorted(set(frameworks.values()))
    return {run: COLOURS[labels.index(label) % len(COLOURS)] for run, label in frameworks.items()}


def _id_of_saved(entity: str, project: str, name: str) -> str:
    """Return W&B's id of the saved view, nw=NAME in the project's address; empty if there is none."""
    from wandb_workspaces.workspaces.internal import get_view_dict

    try:
        return str(get_view_dict(entity, project, name)["id"])
    except Exception:  # none yet, or a server that can't say: then its name alone decides whether it replaces one
        return ""
