"""Numbers and figures of reading comprehension and of dropped tokens, from stored tables and the sweeps of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dial.files import atomic_write, read_json
from dial.report.figures import style
from dial.stages.table import StageTable
from scripts import base_collect
from scripts.results_cell import table_of
from scripts.results_lengths_plan import COLUMNS, LengthsCell
from scripts.results_spans_plan import SpanCell
from scripts.text_collect import cascades_of, reported_rows, tested
from scripts.text_figures import Look, curves_figure

QUESTIONS = "squad"
ROUTED = "softmax"  # what TangoBERT decides by
SCORES = (ROUTED, "energy", "margin", "random", "oracle")
NAMES = {
    "student": "student",
    "lengths-04": "student at 0.4 of its MACs",
    "lengths-07": "student at 0.7 of its MACs",
    "lengths-03": "tokens dropped to 0.3 of the MACs",
    "lengths-05": "tokens dropped to 0.5 of the MACs",
    "lengths-075": "tokens dropped to 0.75 of the MACs",
    "exits-equilibrium": "exits (gradient equilibrium)",
    "exits-costeff-4x": "exits (COST-EFF 4×)",
    "cascade-bilstm-distilled": "BiLSTM",
    "cascade-layers2-distilled": "2 layers",
}
"""Of what runs before, in, or beside the Super, in the order that tables show."""
ADAPTIVE = tuple(name for name in NAMES if name.startswith("lengths-"))
RIVALS = tuple(name for name in NAMES if name.startswith(("exits-", "cascade-")))
FILES = ("reading.csv", "reading_tiers.csv")
CURVES, DROPPED = "reading_curves.png", "reading_dropped.png"
STUDY = f"{QUESTIONS}/study.json"
LOOK = Look(ROUTED, NAMES, size=(6.0, 4.6), lowest=0.9, alone=ADAPTIVE)
Frames = dict[str, pd.DataFrame]


def cells(runs: str = "runs/results") -> list[SpanCell | LengthsCell]:
    """The tasks of both plans, wherever their runs lie."""
    return [SpanCell(QUESTIONS, runs=runs), *(LengthsCell(task, runs=runs) for task in COLUMNS)]


def missing(points: pd.DataFrame) -> list[str]:
    """What of the plans has no numbers yet.

    Args:
        points: of what has; empty where nothing has.
    """
    known = set(zip(points.task, points.run, strict=True)) if len(points) else set()
    runs = [(cell.task, run.removeprefix("cascade-")) for cell in cells() for run in cascades_of(cell)]
    return [f"{task}: {NAMES[run]}" for task, run in runs if (task, run) not in known]


def collect(runs: Path, results: Path) -> Frames:
    """Operating points, and each tier alone, by the name of the file that keeps them.

    Args:
        runs: folder with the sweeps.
        results: folder of the stored tables.
    """
    points: list[dict[str, Any]] = []
    tiers: list[dict[str, Any]] = []
    for cell in cells(str(runs)):
        for name, path in tested(results, cell).items():
            calibrated, folds = base_collect.summaries(cell, f"cascade-{name}")
            if calibrated is None or folds is None:
                continue
            place = {"task": cell.task, "run": name}
            points += [place | row for row in base_collect.readings(calibrated, folds, SCORES)]
            tiers += [place | row for row in tiers_of(calibrated, reported_rows(path))]
    return dict(zip(FILES, map(pd.DataFrame, (points, tiers)), strict=True))


def tiers_of(summary: Mapping[str, Any], rows: StageTable) -> Iterator[dict[str, Any]]:
    """Each tier of a cascade alone: quality by every metric, the primary one with its interval, and cost.

    Args:
        summary: of a sweep.
        rows: reported rows of the table that was swept.
    """
    (split,) = summary["splits"].values()
    groups = len(rows) if rows.group is None else len(set(rows.group.tolist()))
    before = 0.0
    for stage, about in zip(split["stages"], summary["stages"], strict=True):
        low, high = stage["quality_interval"]
        row = {"tier": stage["name"], "metric": summary["metrics"][0], "low": low, "high": high}
        row |= {name: stage["quality"][name] for name in summary["metrics"]}
        row |= {"parameters": about["parameters"], "macs": stage["macs"] - before, "rows": len(rows)}
        yield row | {"groups": groups, "reference_macs": split["reference_macs"]}
        before = stage["macs"]


def keep(runs: Path, results: Path) -> None:
    """Write the numbers that there are, and the figures, beside the stored tables."""
    for name, frame in collect(runs, results).items():
        if not frame.empty:
            with atomic_write(results / name) as temporary:
                frame.to_csv(temporary, index=False, float_format="%.9g")
    draw(results)


def kept_study(results: Path) -> dict[str, Any] | None:
    """What was measured on the clock; None where nothing was."""
    path = results / STUDY
    return read_json(path, "results") if path.is_file() else None


def draw(results: Path) -> list[Path]:
    """Write the figures of what is stored, and give their paths.

    Args:
        results: folder of the stored tables.
    """
    questions, *others = cells()
    read = {name: reported_rows(path) for name, path in tested(results, questions).items()}
    dropped = {cell.task: tables for cell in others if (tables := beside(results, cell))}
    single = dataclasses.replace(LOOK, alone=(), lowest=0.8)
    drawn = {
        CURVES: curves_figure({QUESTIONS: read}, tuple(NAMES), {}, single),
        DROPPED: curves_figure(dropped, (*ADAPTIVE, *RIVALS), {}, LOOK),
    }
    paths = {results / name: figure for name, figure in drawn.items() if figure is not None}
    for path, figure in paths.items():
        style.save(figure, path)
    return list(paths)


def beside(results: Path, cell: SpanCell | LengthsCell) -> dict[str, StageTable]:
    """Test rows of a task's cascades with dropped tokens and of exits and other cascades; none without the first."""
    tables = {name: reported_rows(path) for name, path in tested(results, cell).items()}
    if not tables:
        return {}
    rivals = {name: results / Path(table_of(cell.prefix, name)).relative_to("results") for name in RIVALS}
    return tables | {name: reported_rows(path) for name, path in rivals.items() if path.is_file()}
