"""Runs that are on W&B → a saved workspace that compares them, and its address."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from mfubench.tracking.client import client

# Okabe and Ito's colours, which the colour-blind tell apart, too: one for each framework.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


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
                pinned_columns=[
                    "summary:mfu",
                    "summary:step_time_s",
                    "summary:tokens_per_second_per_device",
                    "summary:peak_memory_bytes",
                    "summary:status",
                ],
            ),
        )
        digest = hashlib.sha256(f"{entity}/{project}/{name}".encode()).hexdigest()[:11]
        # By this name W&B knows it. The package would make up another for each save, and leave each save beside the last.
        workspace._internal_name = f"nw-{digest}-v"
        workspace._internal_id = _id_of_saved(entity, project, digest)
        workspace.save()
        return str(workspace.url)


def _panels(num_runs: int) -> list[Any]:
    """MFU by framework and by run, step times, throughput and memory over the batch size, and what the runs differ in."""
    from wandb_workspaces.reports.v2 import BarPlot, Config, LinePlot, RunComparer, ScatterPlot, SummaryMetric

    batch_size = Config("batch_size")
    return [
        BarPlot(
            title="MFU by framework: mean, least and most of its runs",
            metrics=["mfu"],
            groupby=Config("framework.label"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=num_runs,
            max_bars_to_show=num_runs,
            title_x="MFU (fraction of the peak)",
        ),
        BarPlot(
            title="MFU of each run",
            metrics=["mfu"],
            max_runs_to_show=num_runs,
            max_bars_to_show=num_runs,
            title_x="MFU (fraction of the peak)",
        ),
        LinePlot(
            title="Step time, warm-up included",
            x="step",
            y=["step_time_s"],
            title_x="optimizer step",
            title_y="seconds",
            ignore_outliers=True,  # of the scale: the first step may take a hundred times as long as the others
            max_runs_to_show=num_runs,
        ),
        ScatterPlot(
            title="Tokens per second and device over batch size",
            x=batch_size,
            y=SummaryMetric("tokens_per_second_per_device"),
        ),
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
