"""What `results/dynabert.md` says of cascades within one folder, beside E-LANG's Table 5 as it is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.cascades_page import point_text, points
from scripts.markdown import code, grid
from scripts.results_cell import Cell, crossfit_of, sweep_of
from scripts.results_dynabert_plan import PAIRS, TASKS, dynabert_steps

TARGETS, SCORE = (1.0, 0.99), "energy"
KINDS = {"in_sample": "in-sample", "crossfit": "crossfit"}
# GFLOPs and accuracy in percent of Swift (w 0.5, d 0.25), Super (w 0.75, d 1) and both.
PRINTED = {
    "MNLI": ((2.7, 82.0), (16.3, 84.7), (9.4, 84.7)),
    "SST-2": ((2.7, 91.9), (16.3, 93.3), (5.2, 93.3)),
    "QQP": ((2.7, 90.4), (16.3, 91.4), (6.2, 91.5)),
}


def collect(runs: Path) -> pd.DataFrame:
    """One row per task, pair of sub-networks, target and reading, by energy.

    Args:
        runs: folder with the sweeps.
    """
    return pd.DataFrame(row for task in TASKS for swift, whole in PAIRS for row in read(runs, task, swift, whole))


def read(runs: Path, task: str, swift: str, whole: str) -> Iterator[dict[str, Any]]:
    """The rows of one cascade; none if it was not tested yet."""
    folder, name = Cell(task, runs=str(runs)).folder, f"cascade-dynabert-{swift}-{whole}"
    for of, taken, kind in ((sweep_of, "in_sample", "in_sample"), (crossfit_of, "confident", "crossfit")):
        path = Path(of(folder, name), "summary.json")
        if not path.is_file():
            print(f"not done yet: {path.relative_to(runs)}")
            continue
        for row in points(json.loads(path.read_text()), {}, swift, TARGETS):
            if row["score"] == SCORE and row["kind"] == taken:
                yield {"task": task, "swift": swift, "super": whole, **row, "kind": kind}


def tables(frame: pd.DataFrame, data: str, models: str) -> dict[str, str]:
    """What the page shows, by the name of its place.

    Args:
        frame: from :func:`collect`, or as it was kept.
        data: as for `make results`.
        models: as for `make results`.
    """
    steps = [step for task in TASKS for step in dynabert_steps(Cell(task, data=data, models=models))]
    return {
        "dynabert-printed": printed_table(),
        "dynabert-table": measured_table(frame),
        "dynabert-commands": code(steps),
    }


def printed_table() -> str:
    """E-LANG's Table 5."""
    head = ["task", "Swift", "Super", "both", "speed-up in FLOPs"]
    rows = []
    for task, cells in PRINTED.items():
        texts = [f"{quality:.1f} %, {gflops:g} GFLOPs" for gflops, quality in cells]
        rows.append([task, *texts, f"{cells[1][0] / cells[2][0]:.1f}×"])
    return grid(head, rows)


def measured_table(frame: pd.DataFrame) -> str:
    """Quality and cost of each pair of sub-networks, and what their cascade saves."""
    readings = [(kind, target) for target in TARGETS for kind in KINDS]
    head = ["task", "metric", "Swift", "Super", *(f"{100 * target:g} %, {KINDS[kind]}" for kind, target in readings)]
    rows = []
    for (task, swift, whole), part in frame.groupby(["task", "swift", "super"], sort=False):
        first = part.iloc[0]
        sizes = [
            f"{name}: {100 * first[f'{role}_quality']:.1f} %, {2e-6 * first[f'{role}_macs']:,.0f} MFLOPs"
            for role, name in (("swift", swift), ("super", whole))
        ]
        cells = [point_text(part[(part.kind == kind) & (part.target == target)]) for kind, target in readings]
        rows.append([str(task), first.metric, *sizes, *cells])
    return grid(head, rows)
