"""What `results/base_size.md` says of students, of slender Supers and of time, where it was trained or measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dial.costs.printed import Printed, printed_rows
from scripts import exits_page, time_page
from scripts.base_collect import NAMES, SEEDS
from scripts.base_pairs import SIDES, pair_table, task_of
from scripts.markdown import grid, percent

NOT_YET = "Not trained yet."
EXITS = ("speedup-99", "speedup-98", "super")
PRINTED = ("DeeBERT 12L-256H", "PABEE 12L-256H", "COST-EFF 8x", "COST-EFF 2x", "TinyBERT4", "BERT-base")
"""Of COST-EFF's Table 3, beside ours."""
SIZED = ("ta", "costeff-8x", "costeff-2x", "small-deebert", "small-pabee")


def tables(frames: Mapping[str, pd.DataFrame], studies: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the page shows, by the name of its place; a line where nothing was trained.

    Args:
        frames: as for :func:`scripts.base_page.tables`.
        studies: what was measured on the clock, by task.
    """
    pairs, exits = frames["base_pairs.csv"], frames["base_exits.csv"]
    return {
        "base-seeds": seed_table(frames.get(SEEDS)),
        **{f"base-{name}": shown(pair_table(pairs, name, SIDES)) for name in ("augmented", "general", "teacher")},
        "base-distilled": shown(pair_table(pairs, "distilled", SIDES)),
        "base-costeff": cost_eff_table(exits),
        **{f"base-{name}": shown(pair_table(pairs, name, EXITS)) for name in ("small", "left-out")},
        "base-time": time_table(studies),
    }


def shown(table: str) -> str:
    """A table, or a line in its place where it has no rows."""
    return table if len(table.splitlines()) > 2 else NOT_YET


def seed_table(seeds: pd.DataFrame | None) -> str:
    """Quality of first tiers of several seeds, and what each saves across folds at 99 %, seed by seed."""
    if seeds is None or seeds.empty or not (seeds.seed > 0).any():
        return NOT_YET
    rows = []
    for (task, run), part in seeds.groupby(["task", "run"], sort=False):
        part = part.sort_values("seed")
        qualities = [percent(value) for value in part.swift_quality]
        saved = [f"{row.speedup:.2f}× ({percent(row.kept)} %)" for row in part.itertuples()]
        rows.append([task_of(str(task)), NAMES[str(run)], part.metric.iloc[0], ", ".join(qualities), ", ".join(saved)])
    return grid(["task", "first tier", "metric", "quality by seed, %", "99 %, crossfit, by seed"], rows)


def cost_eff_table(exits: pd.DataFrame) -> str:
    """COST-EFF's Table 3: quality of the last exit, size, and the FLOPs that are saved, beside what it prints."""
    rows: list[list[str]] = []
    for task in dict.fromkeys(exits.task):
        mine = exits[(exits.task == task) & exits.method.isin(SIZED)]
        if not mine.method.str.startswith(("costeff", "small")).any():
            continue
        for method, model in mine.groupby("method", sort=False):
            first = model.iloc[0]
            cells = [task_of(task), NAMES[f"exits-{method}"], f"{first.parameters / 1e6:.1f}", first.metric]
            quality = percent(exits_page.exits_of(first)[-1])
            saved = [exits_page.point_text(model, "in_sample", target) for target in (0.99, 0.98)]
            rows.append([*cells, quality, f"{first.full_depth:.2f}×", *saved])
        rows += [printed_cells(row) for row in printed_rows() if is_shown(row, task_of(task))]
    head = ["task", "model", "M parameters", "metric", "quality, %", "FLOPs saved, all layers", "at 99 %", "at 98 %"]
    return shown(grid(head, rows))


def is_shown(row: Printed, task: str) -> bool:
    """Whether a printed row stands beside ours."""
    return (row.paper, row.table, row.task, row.convention) == ("COST-EFF", "3", task, "reduction") and (
        row.row in PRINTED
    )


def printed_cells(row: Printed) -> list[str]:
    """A printed row: its FLOPs are at the point that the paper chose, on the rows that it reports."""
    return [row.task, f"{row.row}, printed", "–", row.metric, str(row.value), f"{row.cost}× at its point", "–", "–"]


def time_table(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """TangoBERT's Table 3: time one row at a time and in the best batches, beside the speed-ups that it prints."""
    records = [time_page.Record(task_of(task), dict(study), None, None, None) for task, study in studies.items()]
    if not records:
        return "Not measured yet."
    rows = [
        [row.task, row.row, row.metric, str(row.value), f"{row.cost}×"]
        for row in printed_rows()
        if (row.paper, row.table, row.convention) == ("TangoBERT", "3", "speedup_time")
        and row.task in {record.task for record in records}
    ]
    printed = grid(["task", "TangoBERT, Table 3", "metric", "quality, %", "speed-up in time"], rows)
    return f"{time_page.model_table(records)}\n\n{printed}"
