"""What `results/base_size.md` says of cascades with a base-size Super, beside what the three papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dial.costs.printed import Printed, printed_rows
from scripts import base_students_page, exits_page
from scripts.base_collect import FILES, NAMES, ROUTED, SEEDS, TARGETS, missing
from scripts.base_pairs import SIDES, SUPER, pair_table, task_of
from scripts.markdown import code, grid, percent
from scripts.results_base_plan import plan
from scripts.results_steps import Derived, Measured, chain
from scripts.text_page import missing_text

BELOW = TARGETS[1:]
KINDS = {
    "expected": "calibrated, expected",
    "confident": "calibrated, confident",
    "crossfit_expected": "crossfit, expected",
    "crossfit_confident": "crossfit, confident",
    "in_sample": "in-sample",
}
PER_STAGE = {
    "expected": "one dial, calibrated",
    "per_stage": "a threshold each, calibrated",
    "crossfit_expected": "one dial, crossfit",
    "crossfit_per_stage": "a threshold each, crossfit",
}
METHODS = {"DeeBERT": "DeeBERT", "random": "random", "TangoBERT": "cascade", "oracle": "oracle"}
"""Of TangoBERT's Table 2, and what they are called here."""
BESIDE = {
    ("E-LANG", "4"): ("BERT-base (Super)", "BERT-tiny (Swift)"),
    ("COST-EFF", "3"): ("BERT-base", "TinyBERT4"),
    ("TangoBERT", "3"): ("second tier", "second tier, BERT", "second tier, RoBERTa"),
}
"""Single models that the papers print, by paper and table."""


def tables(
    frames: Mapping[str, pd.DataFrame], data: str, models: str, studies: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """What the page shows, by the name of its place.

    Args:
        frames: from :func:`scripts.base_collect.collect`, or as they were kept, with the seeds' where there are any.
        data: as for `make results`.
        models: as for `make results`.
        studies: what was measured on the clock, by task.
    """
    points, tiers, pairs, exits = (frames[name] for name in FILES)
    within = exits.assign(task=exits.task.map(task_of))
    return {
        "base-missing": missing_text(missing(points, exits)),
        "base-tiers": tier_table(tiers),
        "base-published": published_table(tiers),
        "base-table2": table_2(points, "in_sample", printed=True),
        "base-table2-crossfit": table_2(points, "crossfit_expected"),
        **{f"base-speedup-{100 * target:g}": speedup_table(points, target) for target in BELOW},
        "base-deebert": pair_table(pairs, "exits", ("speedup-99", "speedup-98")),
        "base-scores": pair_table(pairs, "scores", ("area",)),
        "base-table4": table_4(points),
        "base-three": per_stage_table(points, exits=False),
        "base-three-pairs": pair_table(pairs, "three", ("speedup-99", "speedup-98")),
        "base-exits-each": per_stage_table(points, exits=True),
        "base-words": pair_table(pairs, "words", SIDES),
        "base-sizes": pair_table(pairs, "sizes", SIDES),
        "base-layers": exits_page.layer_table(within),
        **{f"base-exits-{100 * target:g}": exits_page.exit_table(within, target) for target in BELOW},
        "base-last": pair_table(pairs, "last", ("super",)),
        **base_students_page.tables(frames, studies or {}),
        "base-commands": code(commands(frames, studies or {}, data, models)),
    }


# ---- cells ----


def point_of(points: pd.DataFrame, run: tuple[str, str], kind: str, target: float, score: str) -> pd.Series | None:
    """An operating point; None where there is none.

    Args:
        points: of all runs.
        run: task and name.
        kind: how it was chosen.
        target: share of the Super's quality.
        score: that decides.
    """
    same = (points.task == run[0]) & (points.run == run[1]) & (points.kind == kind)
    found = points[same & (points.target == target) & (points.score == score)]
    return None if found.empty else found.iloc[0]


def saved(point: pd.Series | None, interval: bool = True) -> str:
    """Speed-up with its interval, and what was kept of the Super; bold where that is less than the target."""
    if point is None:
        return "–"
    if point.only_super:
        return "Super alone"
    bounds = f" [{point.speedup_low:.2f}, {point.speedup_high:.2f}]" if interval and pd.notna(point.speedup_low) else ""
    kept = percent(point.kept)
    return f"{point.speedup:.2f}×{bounds} ({kept if point.held else f'**{kept}**'} %)"


def runs_of(points: pd.DataFrame) -> list[tuple[str, str]]:
    """Task and name of each run."""
    return list(dict.fromkeys(zip(points.task, points.run, strict=True)))


def cascades(points: pd.DataFrame, task: str) -> list[tuple[str, str]]:
    """Task and name of each cascade of a task."""
    return [(each, run) for each, run in runs_of(points) if each == task and not run.startswith("exits-")]


# ---- tables ----


def tier_table(tiers: pd.DataFrame) -> str:
    """Quality and cost of each model alone, the Super last."""
    rows: dict[tuple[str, str], list[str]] = {}
    for _, tier in tiers[tiers.run != "three"].iterrows():
        name = SUPER if tier.tier == "super" else NAMES[tier.run]
        cells = [
            task_of(tier.task),
            name,
            tier.metric,
            f"{percent(tier.quality)} [{percent(tier.low)}, {percent(tier.high)}]",
        ]
        cells += [percent(tier.accuracy), f"{tier.parameters / 1e6:.1f}", f"{2e-6 * tier.macs:,.1f}"]
        rows.setdefault((tier.task, name), cells)
    ordered = sorted(rows, key=lambda key: key[1] == SUPER)
    tasks = list(dict.fromkeys(tiers.task))
    ordered.sort(key=lambda key: tasks.index(key[0]))
    head = ["task", "model", "metric", "quality, %", "accuracy, %", "M parameters", "MFLOPs per row"]
    return grid(head, [rows[key] for key in ordered])


def published_table(tiers: pd.DataFrame) -> str:
    """The Super, and the nearest that the papers print, on the validation rows that all report."""
    rows = []
    for task in dict.fromkeys(tiers.task):
        last = tiers[(tiers.task == task) & (tiers.tier == "super")].iloc[0]
        ours = {last.metric: last.quality, "accuracy": last.accuracy}
        rows += [[task_of(task), "MPNet-base, ours", name, percent(value)] for name, value in ours.items()]
        for row in printed_rows():
            name = row.row.removesuffix(", batch size 1")
            if name in BESIDE.get((row.paper, row.table), ()) and row.task == task_of(task):
                rows.append([row.task, f"{row.paper}, Table {row.table}: {name}", row.metric, str(row.value)])
    return grid(["task", "model", "metric", "quality, %"], rows)


def printed_speedups() -> dict[tuple[str, str], dict[tuple[str, float], float]]:
    """TangoBERT's Table 2, by task and second tier: its speed-ups by method and share kept."""
    found: dict[tuple[str, str], dict[tuple[str, float], float]] = {}
    for row in printed_rows():
        if (row.paper, row.table, row.convention) == ("TangoBERT", "2", "speedup_time") and _kept(row):
            method, _, second = row.row.partition(", ")
            found.setdefault((row.task, second), {})[METHODS[method], _kept(row)] = row.cost or 0.0
    return found


def _kept(row: Printed) -> float:
    return round((row.value or 0.0) / 100, 4) if row.metric == "kept" else 0.0


def table_2(points: pd.DataFrame, kind: str, printed: bool = False) -> str:
    """TangoBERT's Table 2 in FLOPs: exits in the Super, random routing, the cascade and the oracle.

    Args:
        points: of all runs.
        kind: how they were chosen.
        printed: whether its own rows, in time, stand below.
    """
    methods = [name for name in METHODS.values() if name != "oracle" or kind == "in_sample"]
    scores = {"random": "random", "oracle": "oracle"}
    rows = []
    for task in dict.fromkeys(points.task):
        for place in cascades(points, task):
            cells = [task_of(task), NAMES[place[1]]]
            for target in BELOW:
                for method in methods:
                    run = (task, "exits-deebert") if method == "DeeBERT" else place
                    point = point_of(points, run, kind, target, scores.get(method, ROUTED))
                    cells.append(saved(point, interval=False))
            rows.append(cells)
        for (theirs, second), values in printed_speedups().items() if printed else ():
            if theirs == task_of(task):
                name = f"TangoBERT, printed, in time{f': {second}' if second else ''}"
                rows.append([theirs, name, *(f"{values[m, t]}×" for t in BELOW for m in methods)])
    return grid(["task", "first tier", *(f"{m} at {100 * t:g} %" for t in BELOW for m in methods)], rows)


def speedup_table(
    points: pd.DataFrame,
    target: float,
    scores: Sequence[str] = (ROUTED, "random"),
    names: Mapping[str, str] = NAMES,
) -> str:
    """Speed-ups at one target, by every reading.

    Args:
        points: of all runs.
        target: share of the Super's quality.
        scores: that decide.
        names: of what stands before the Super.
    """
    rows = []
    for task, run in runs_of(points):
        for score in (ROUTED,) if run.startswith("exits-") else scores:
            cells = [saved(point_of(points, (task, run), kind, target, score)) for kind in KINDS]
            rows.append([task_of(task), names[run], score, *cells])
    return grid(["task", "before, or in, the Super", "score", *KINDS.values()], rows)


def table_4(points: pd.DataFrame) -> str:
    """E-LANG's Table 4: what is saved at all of the Super's quality, by energy, beside what it prints."""
    rows = []
    for task in dict.fromkeys(points.task):
        for place in cascades(points, task):
            cells = [saved(point_of(points, place, kind, 1.0, "energy")) for kind in KINDS]
            rows.append([task_of(task), NAMES[place[1]], *cells])
        mine = [row for row in printed_rows() if (row.paper, row.table, row.task) == ("E-LANG", "4", task_of(task))]
        quality = {row.row: row.value for row in mine if row.metric == "accuracy"}
        for row in (row for row in mine if row.row == "E-LANG" and row.convention == "speedup"):
            text = f"{row.cost}× (accuracy {row.value}, its Super {quality['BERT-base (Super)']})"
            rows.append([row.task, "E-LANG, printed", *["–"] * (len(KINDS) - 1), text])
    return grid(["task", "before the Super", *KINDS.values()], rows)


def per_stage_table(points: pd.DataFrame, exits: bool) -> str:
    """One dial for all thresholds, and a threshold of its own for each stage, of what has more than two stages.

    Args:
        points: of all runs.
        exits: whether of exits in the Super, else of tiers.
    """
    searched = points[points.kind == "per_stage"]
    rows = []
    for task, run in (place for place in runs_of(searched) if place[1].startswith("exits-") == exits):
        for target in TARGETS:
            cells = [saved(point_of(points, (task, run), kind, target, ROUTED)) for kind in PER_STAGE]
            rows.append([task_of(task), NAMES[run], f"{100 * target:g} %", *cells])
    return grid(["task", "before, or in, the Super", "target", *PER_STAGE.values()], rows)


def commands(
    frames: Mapping[str, pd.DataFrame], studies: Mapping[str, Mapping[str, Any]], data: str, models: str
) -> list[str]:
    """The commands that led to what has numbers, each once.

    Args:
        frames: as for :func:`tables`.
        studies: what was measured on the clock, by task.
        data: as for `make results`.
        models: as for `make results`.
    """
    points, _, _, exits = (frames[name] for name in FILES)
    runs = [(task, 0, run) for task, run in runs_of(points)]
    runs += [(task, 0, f"exits-{method}") for task, method in zip(exits.task, exits.method, strict=True)]
    if (seeds := frames.get(SEEDS)) is not None:
        runs += list(zip(seeds.task, seeds.seed, seeds.run, strict=True))
    names = {f"{task}/seed{seed}/{run if run.startswith('exits-') else f'cascade-{run}'}" for task, seed, run in runs}
    names |= {f"{task}/seed0/clock" for task in studies}
    steps = list(plan(data, models))
    wanted = [s for s in steps if isinstance(s, Derived | Measured) and s.name.rsplit("/", 1)[0] in names]
    return [str(step) for step in chain(steps, wanted)]
