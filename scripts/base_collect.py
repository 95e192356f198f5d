"""Numbers and figures of cascades with a base-size Super, from their stored tables and the sweeps of these.

Two runs on one task are compared on the same resamples of the same test rows, so that their difference has a paired
interval.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from dial.costs.printed import select
from dial.files import atomic_write
from dial.report.errors import stage_errors
from dial.report.figures import style
from dial.report.figures.errors import errors_figure
from dial.stages.table import StageTable
from scripts import cascades_page, clock, exits_page
from scripts.results_base_plan import BaseCell
from scripts.results_base_tasks import TASKS
from scripts.results_cell import LOSSES_LEFT_OUT, Cell, crossfit_of, sweep_of
from scripts.text_collect import cascades_of, compared, reported_rows, tested
from scripts.text_figures import Look, curves_figure

TARGETS, SCORES = (1.0, 0.99, 0.98), ("energy", "softmax", "random", "oracle")
CHOSEN = ("expected", "confident", "per_stage", "in_sample")
ROUTED = "softmax"  # what TangoBERT decides by; of two classes entropy, which exits decide by, orders rows alike
PAIR = "glove"  # TangoBERT's first tier
NAMES = {
    "glove": "BiLSTM, GloVe",
    "subword": "BiLSTM, Super's tokens",
    "tiny": "BERT-tiny",
    "l3": "MiniLM-L3",
    "l6": "MiniLM-L6",
    "glove-tang": "BiLSTM (×12 texts)",
    "glove-other": "BiLSTM (taught by MiniLM-L6)",
    "4l": "4L-312",
    "4l-random": "4L-312 (random start)",
    "4l-augmented": "4L-312 (more texts)",
    "l6-own": "MiniLM-L6 (labels alone)",
    "distilbert": "MPNet's every second layer",
    "w25": "DynaBERT of MiniLM-L6 at width 0.25",
    "w50": "DynaBERT of MiniLM-L6 at width 0.5",
    "three": "BiLSTM, MiniLM-L6",
    "exits-deebert": "DeeBERT",
    "exits-ta": "teaching assistant",
    "exits-costeff-8x": "COST-EFF 8×",
    "exits-costeff-2x": "COST-EFF 2×",
    "exits-costeff-8x-no-hidden": "COST-EFF 8× without hidden states",
    "exits-costeff-8x-no-logits": "COST-EFF 8× without predictions",
    "exits-costeff-8x-two-stage": "COST-EFF 8× in two stages",
    "exits-small-deebert": "DeeBERT in 12 layers of 256",
    "exits-small-pabee": "PABEE in 12 layers of 256",
    "exits-berxit": "BERxiT",
}
"""Of what runs before, or in, the Super, in the order that tables show."""
LOOK = Look(ROUTED, NAMES, size=(6.0, 4.6), lowest=0.86)
DRAWN: dict[str, tuple[str, ...]] = {
    "base_curves.png": ("glove", "l3", "l6", "three", "exits-deebert", "exits-ta"),
    "base_words.png": ("glove", "subword", "tiny"),
}
COMPARED = (
    *(("exits", "exits-deebert", name) for name in ("glove", "subword", "tiny", "l3", "l6", "three")),
    ("last", "l3", "exits-deebert"),
    ("last", "l3", "exits-ta"),
    ("words", "glove", "subword"),
    ("sizes", "glove", "tiny"),
    ("sizes", "glove", "l3"),
    ("sizes", "l3", "l6"),
    ("three", "glove", "three"),
    ("three", "l6", "three"),
    ("augmented", "glove", "glove-tang"),
    ("augmented", "4l", "4l-augmented"),
    ("general", "4l-random", "4l"),
    ("teacher", "glove", "glove-other"),
    ("distilled", "l6-own", "l6"),
    ("distilled", "l6", "distilbert"),
    *(("small", f"exits-small-{name}", "exits-costeff-8x") for name in ("deebert", "pabee")),
    *(("left-out", f"exits-costeff-8x-{name}", "exits-costeff-8x") for name, _ in LOSSES_LEFT_OUT),
)
"""What is asked, and two runs; the second is the one that is to be better."""
FILES = ("base_size.csv", "base_tiers.csv", "base_pairs.csv", "base_exits.csv")
SEEDS = "base_seeds.csv"
"""Of first tiers of other seeds, where there are any."""
Frames = dict[str, pd.DataFrame]


def cells(runs: str = "runs/results") -> Iterator[BaseCell]:
    """The tasks of the plan, wherever their runs lie."""
    for task in TASKS:
        yield BaseCell(f"base_{task.name}", runs=runs, about=task)


def missing(points: pd.DataFrame, exits: pd.DataFrame) -> list[str]:
    """What of the plan has no numbers yet, of the first seed.

    Args:
        points: of what has.
        exits: of models with exits; one in a number has no points by the scores of classes.
    """
    known = {*zip(points.task, points.run, strict=True), *zip(exits.task, "exits-" + exits.method, strict=True)}
    runs = [(cell.task, run.removeprefix("cascade-")) for cell in cells() for run in cascades_of(cell)]
    return [f"{task}: {NAMES[run]}" for task, run in runs if (task, run) not in known]


def collect(runs: Path, results: Path) -> Frames:
    """Operating points, tiers, paired comparisons, and exits, by the name of the file that keeps them.

    Args:
        runs: folder with the sweeps.
        results: folder of the stored tables.
    """
    points: list[dict[str, Any]] = []
    tiers: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    exits: list[dict[str, Any]] = []
    for cell in cells(str(runs)):
        stored = tested(results, cell)
        for name in (name for name in NAMES if name in stored):
            run = name if name.startswith("exits-") else f"cascade-{name}"
            calibrated, folds = summaries(cell, run)
            if calibrated is None or folds is None:
                continue
            place = {"task": cell.task, "run": name}
            points += [place | row for row in readings(calibrated, folds)]
            if name.startswith("exits-"):
                exits += exits_page.read(cell, name, name.removeprefix("exits-"))
            else:
                tiers += [place | row for row in _tiers(calibrated)]
                pairs += [place | row for row in _scores(calibrated)]
        pairs += _pairs(cell.task, {name: reported_rows(path) for name, path in stored.items()})
    return dict(zip(FILES, map(pd.DataFrame, (points, tiers, pairs, exits)), strict=True))


def collect_seeds(runs: Path, results: Path) -> pd.DataFrame:
    """Quality of the first tiers of each seed, and what their cascades save across folds at 99 %.

    Args:
        runs: folder with the sweeps.
        results: folder of the stored tables.
    """
    rows: list[dict[str, Any]] = []
    for cell in cells(str(runs)):
        for seeded in (replace(cell, seed=seed) for seed in (cell.seed, *cell.about.seeds) if cell.about.seeds):
            for run in tested(results, seeded):
                folds = None if run.startswith("exits-") else summaries(seeded, f"cascade-{run}")[1]
                for row in cascades_page.points(folds, {}, "", TARGETS, SCORES, CHOSEN) if folds else ():
                    if (row["score"], row["target"], row["kind"]) == (ROUTED, 0.99, "expected"):
                        shown = {name: row[name] for name in ("metric", "swift_quality", "speedup", "kept", "held")}
                        rows.append({"task": cell.task, "run": run, "seed": seeded.seed, **shown})
    return pd.DataFrame(rows)


def studies(results: Path) -> dict[str, dict[str, Any]]:
    """What was measured on the clock, by task.

    Args:
        results: folder of the stored tables.
    """
    return clock.studies(results, [cell.task for cell in cells()])


def keep(runs: Path, results: Path) -> None:
    """Write the numbers that there are, and the figures, beside the stored tables."""
    for name, frame in (collect(runs, results) | {SEEDS: collect_seeds(runs, results)}).items():
        if not frame.empty:
            with atomic_write(results / name) as temporary:
                frame.to_csv(temporary, index=False, float_format="%.9g")
    draw(results)


def summaries(cell: Cell, run: str) -> list[dict[str, Any] | None]:
    """A run's sweeps with calibration rows and across folds; None for one that was not swept."""
    paths = [Path(of(cell.folder, run), "summary.json") for of in (sweep_of, crossfit_of)]
    return [json.loads(path.read_text()) if path.is_file() else None for path in paths]


def readings(
    calibrated: Mapping[str, Any], folds: Mapping[str, Any], scores: Sequence[str] = SCORES
) -> Iterator[dict[str, Any]]:
    """Flat rows of all operating points: of the sweep with calibration rows, then, as `crossfit_*`, across folds.

    Args:
        calibrated: summary of the one.
        folds: summary of the other.
        scores: to show.
    """
    yield from cascades_page.points(calibrated, {}, "", TARGETS, scores, CHOSEN)
    for row in cascades_page.points(folds, {}, "", TARGETS, scores, CHOSEN):
        if row["kind"] != "in_sample":
            yield row | {"kind": f"crossfit_{row['kind']}"}


def _tiers(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each tier of a cascade alone."""
    (split,) = summary["splits"].values()
    metric, before = summary["metrics"][0], 0.0
    for stage, about in zip(split["stages"], summary["stages"], strict=True):
        low, high = stage["quality_interval"]
        row = {"tier": stage["name"], "metric": metric, "quality": stage["quality"][metric], "low": low, "high": high}
        row |= {"accuracy": stage["quality"]["accuracy"], "parameters": about["parameters"]}
        yield row | {"macs": stage["macs"] - before, "rows": split["rows"]}
        before = stage["macs"]


def _scores(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Energy minus softmax of a cascade."""
    if (pair := cascades_page.pair_of(summary)) is not None:
        yield {"question": "scores", "first": "softmax", "second": "energy", "quantity": "area", **pair}


def _pairs(task: str, rows: Mapping[str, StageTable]) -> Iterator[dict[str, Any]]:
    """Second minus first of every pair of which both are stored."""
    for question, first, second in COMPARED:
        if first in rows and second in rows:
            for quantity, entry in compared(rows[first], rows[second], ROUTED, TARGETS).items():
                low, high = entry["interval"] or (None, None)
                place = {"task": task, "run": "", "question": question, "first": first, "second": second}
                yield place | {"quantity": quantity, "difference": entry["difference"], "low": low, "high": high}


def draw(results: Path) -> list[Path]:
    """Write the figures of what is stored beside it, and give their paths.

    Args:
        results: folder of the stored tables.
    """
    stored = {cell.task: {n: reported_rows(path) for n, path in tested(results, cell).items()} for cell in cells()}
    printed = {f"base_{task}": point for task in ("sst2",) if (point := printed_point(task))}
    figures = {name: curves_figure(stored, wanted, printed, LOOK) for name, wanted in DRAWN.items()}
    for task, runs in stored.items():
        if PAIR in runs:
            figures[f"{task}_errors.png"] = errors_figure(stage_errors(runs[PAIR], ROUTED), task)
    paths = {results / name: figure for name, figure in figures.items() if figure is not None}
    for path, figure in paths.items():
        style.save(figure, path)
    return list(paths)


def printed_point(task: str) -> tuple[float, float]:
    """Cost and accuracy of E-LANG's Table 4 as shares of its own Super's.

    >>> [round(share, 3) for share in printed_point("sst2")]
    [0.289, 1.002]
    """
    rows = {row.row: row for row in select(["e-lang:4"], task) if row.point() is not None}
    ours, whole = (rows[name].point() for name in ("E-LANG", "BERT-base (Super)"))
    assert ours is not None and whole is not None
    return ours.flops / whole.flops, ours.quality / whole.quality
