"""What `results/reading.md` says of SQuAD cascades, and of dropped tokens beside exits and cascades."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from dial.costs.printed import Printed, select
from scripts import clock
from scripts.base_page import BELOW, point_of, printed_speedups, saved, speedup_table
from scripts.markdown import code, grid, percent
from scripts.reading_collect import ADAPTIVE, CURVES, DROPPED, FILES, NAMES, QUESTIONS, ROUTED, cells, missing
from scripts.results_plan import plan
from scripts.results_steps import Derived, Measured, chain
from scripts.text_page import missing_text

METHODS = {"random": "random", "cascade": ROUTED, "oracle": "oracle"}
"""Of TangoBERT's Table 2, and the score that each decides by."""
NOT_YET = "Not measured yet."
SUPER = {QUESTIONS: "MPNet-base (Super)"}
README = (
    # method, task, run, config
    ("TangoBERT: questions answered by spans", QUESTIONS, "student", "configs/model/span_distil.yaml"),
    (
        "Length-Adaptive at 0.75 of the MACs, then the Super",
        "sst2",
        "lengths-075",
        "configs/model/length_adaptive.yaml",
    ),
)


def tables(
    frames: Mapping[str, pd.DataFrame],
    study: Mapping[str, Any] | None,
    figures: Collection[str],
    data: str,
    models: str,
) -> dict[str, str]:
    """What the page shows, by the name of its place.

    Args:
        frames: from :func:`scripts.reading_collect.collect`, or as they were kept; empty ones where nothing was.
        study: of the SQuAD cascade; None where it was not measured.
        figures: names of those that were drawn.
        data: as for `make results`.
        models: as for `make results`.
    """
    points, tiers = (frames[name] for name in FILES)
    asked, dropped = (of_tasks(points, questions) for questions in (True, False))
    return {
        "reading-missing": missing_text(missing(points)),
        "reading-tiers": question_tiers(of_tasks(tiers, True)),
        "reading-table2": table_2(asked),
        "reading-curves": figure(CURVES, figures),
        **{f"reading-speedup-{100 * target:g}": speedups(asked, target) for target in BELOW},
        "reading-time": time_table(study),
        "reading-dropped-tiers": dropped_tiers(of_tasks(tiers, False)),
        "reading-dropped-curves": figure(DROPPED, figures),
        **{f"reading-dropped-{100 * target:g}": speedups(dropped, target) for target in BELOW},
        "reading-commands": code(commands(points, study, data, models)),
    }


def methods(points: pd.DataFrame, kind: str, target: float) -> list[list[str]]:
    """Rows of the README's table of methods, of what has numbers.

    Args:
        points: as they were kept.
        kind: reading.
        target: share of the Super's quality.
    """
    rows = []
    for method, task, run, config in README:
        point = point_of(points, (task, run), kind, target, ROUTED) if len(points) else None
        if point is not None:
            value = f"{point.speedup:.2f}× ({percent(point.kept)} %)"
            command = f"`dial fit --config {config}`"
            rows.append([method, command, task, value, "[reading](results/reading.md)"])
    return rows


FIGURES = {
    CURVES: "Exact curves of the cascades on SQuAD, of random routing and of the oracle",
    DROPPED: "Quality against cost of dropped tokens alone and before the Super, of exits, and of another cascade",
}


def figure(name: str, drawn: Collection[str]) -> str:
    """A figure with what it shows, where it was drawn."""
    return f"![{FIGURES[name]}]({name})" if name in drawn else NOT_YET


def of_tasks(frame: pd.DataFrame, questions: bool) -> pd.DataFrame:
    """The rows of SQuAD, or those of the others."""
    return frame[(frame.task == QUESTIONS) == questions] if len(frame) else frame


# ---- tables ----


def question_tiers(tiers: pd.DataFrame) -> str:
    """Exact match, F1 and cost of each model alone on SQuAD, the Super last."""
    if tiers.empty:
        return NOT_YET
    rows: dict[str, list[str]] = {}
    for _, tier in tiers.iterrows():
        name = SUPER[QUESTIONS] if tier.tier == "super" else NAMES[tier.run]
        cells = [name, percent(tier.squad_em), f"{percent(tier.token_f1)} [{percent(tier.low)}, {percent(tier.high)}]"]
        rows.setdefault(name, [*cells, f"{tier.parameters / 1e6:.1f}", f"{2e-9 * tier.macs:,.2f}"])
    ordered = sorted(rows.values(), key=lambda row: row[0] == SUPER[QUESTIONS])
    for printed in select(["tangobert:3"], QUESTIONS):
        if printed.row == "second tier, batch size 1":
            ordered.append(["TangoBERT, printed: BERT-base (second tier)", "–", str(printed.value), "–", "–"])
    first = tiers.iloc[0]
    told = f"{first['rows']:,} questions about {first.groups:,} paragraphs."
    return f"{told}\n\n{grid(['model', 'exact match, %', 'F1, %', 'M parameters', 'GFLOPs per question'], ordered)}"


def table_2(points: pd.DataFrame) -> str:
    """TangoBERT's Table 2 on SQuAD: in-sample, ours in FLOPs, its own in time."""
    if points.empty:
        return NOT_YET
    rows = []
    for run in dict.fromkeys(points.run):
        cells = [
            saved(point_of(points, (QUESTIONS, run), "in_sample", target, score), interval=score == ROUTED)
            for target in BELOW
            for score in METHODS.values()
        ]
        rows.append([NAMES[run], *cells])
    values = printed_speedups()[QUESTIONS, ""]
    rows.append(["TangoBERT, printed, in time", *(f"{values[m, t]}×" for t in BELOW for m in METHODS)])
    return grid(["first tier", *(f"{m} at {100 * t:g} %" for t in BELOW for m in METHODS)], rows)


def speedups(points: pd.DataFrame, target: float) -> str:
    """Speed-ups in FLOPs at one target, by every reading."""
    return NOT_YET if points.empty else speedup_table(points, target, (ROUTED, "random"), NAMES)


def time_table(study: Mapping[str, Any] | None) -> str:
    """Speed-ups of one cascade on the clock, one question at a time and in the best batches, beside what is printed."""
    if study is None:
        return NOT_YET
    rows = clock.rows_of(study)
    for target in BELOW:
        rows.append(["TangoBERT, printed", f"{100 * target:g}", "–", "–", *printed_times(target)])
    chosen = "Thresholds were chosen on calibration questions; what is kept is of these questions."
    return f"{clock.how(study, 'test questions')} {chosen}\n\n{grid(clock.HEAD, rows)}"


def printed_times(target: float) -> list[str]:
    """TangoBERT's speed-up at batch 1 (Table 2) and in the best batches (Table 3), with what stands between them."""
    name = f"TangoBERT@{100 * target:g}, best batch sizes"
    best = [row for row in select(["tangobert:3"], QUESTIONS) if (row.row, row.convention) == (name, "speedup_time")]
    return [f"{printed_speedups()[QUESTIONS, '']['cascade', target]}×", "–", f"{best[0].cost}×"]


def dropped_tiers(tiers: pd.DataFrame) -> str:
    """Quality and cost of the models that drop tokens, alone, beside their Super, and what E-LANG prints."""
    if tiers.empty:
        return NOT_YET
    rows: dict[tuple[str, str], list[str]] = {}
    for _, tier in tiers.iterrows():
        name = "the Super" if tier.tier == "super" else NAMES[tier.run]
        quality = f"{percent(tier[tier.metric])} [{percent(tier.low)}, {percent(tier.high)}]"
        cost = f"{2e-6 * tier.macs:,.1f}", percent(tier.macs / tier.reference_macs)
        rows.setdefault((tier.task, name), [tier.task, name, tier.metric, quality, *cost])
    tasks = list(dict.fromkeys(tiers.task))
    ordered = sorted(rows, key=lambda key: (tasks.index(key[0]), key[1] == "the Super"))
    lines = [rows[key] for key in ordered]
    printed = {row.row: row for row in select(["e-lang:4"], "sst2") if row.flops is not None}
    for name in ("Length-Adaptive", "BERT-base (Super)"):
        lines.append(["sst2", f"E-LANG, Table 4: {name}", "accuracy", *printed_cells(printed[name], printed)])
    return grid(["task", "model", "metric", "quality, %", "MFLOPs per row", "of the Super's, %"], lines)


def printed_cells(row: Printed, rows: Mapping[str, Printed]) -> list[str]:
    """Quality, MFLOPs, and their share of BERT-base's."""
    whole = rows["BERT-base (Super)"].flops
    assert row.flops is not None and whole is not None
    return [str(row.value), f"{1e-6 * row.flops:,.0f}", percent(row.flops / whole)]


def commands(points: pd.DataFrame, study: Mapping[str, Any] | None, data: str, models: str) -> list[str]:
    """The commands that lead to all runs of both plans, or led to those that have numbers.

    Args:
        points: as they were kept.
        study: of the SQuAD cascade; None where it was not measured.
        data: as for `make results`.
        models: as for `make results`.
    """
    steps = list(plan(data, models))
    known = set(zip(points.task, points.run, strict=True)) if len(points) else set()
    names = [f"{task}/seed0/cascade-{run}" for task, run in known]
    names += [f"{QUESTIONS}/seed0/study/"] if study is not None else []
    if not names:
        names = [f"{QUESTIONS}/", *(f"{cell.task}/seed0/cascade-{run}" for cell in cells()[1:] for run in ADAPTIVE)]
    wanted = [step for step in steps if isinstance(step, Derived | Measured) and step.name.startswith(tuple(names))]
    return [str(step) for step in chain(steps, wanted)]
