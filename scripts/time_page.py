"""What `results/time.md` says of measured time: operating points, models alone, int8, the executor; and of errors.

Measurements are kept in `results/<task>/`. A table is written where all tasks have what it is made of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.markdown import code, grid
from scripts.results_cell import Cell, sweep_of
from scripts.results_plan import TIMED, TIMED_EXITS, measured_steps

METHODS = {"exits": TIMED_EXITS, "random": "random", "cascade": "cascade", "oracle": "oracle"}
READINGS = {"expected": "expected", "in_sample": "in-sample"}
TARGETS = (0.99, 0.98)


@dataclass(frozen=True)
class Record:
    """What was measured on one task; None where that step has not run.

    Attributes:
        task: name.
        study: content of the cascade's `study.json`.
        int8: content of that of int8 before float32.
        executor: content of what `bench_executor.py` left.
        errors: the sweep's `errors.csv`.
    """

    task: str
    study: dict[str, Any] | None
    int8: dict[str, Any] | None
    executor: dict[str, Any] | None
    errors: pd.DataFrame | None


def keep_errors(runs: Path, results: Path) -> None:
    """Keep the errors of each task's cascade, as numbers and figure, beside what was measured."""
    for task, swift in TIMED.items():
        sweep = Path(sweep_of(Cell(task, runs=str(runs)).folder, f"cascade-{swift}"))
        for file in sweep.glob("errors.*"):
            (results / task).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, results / task / file.name)


def collect(results: Path) -> list[Record]:
    """One record per task, in the order of the plan.

    Args:
        results: folder with what was measured, by task.
    """
    records = []
    for task in TIMED:
        paths = [results / task / f"{name}.json" for name in ("study", "study-int8", "executor")]
        study, int8, executor = (json.loads(path.read_text()) if path.is_file() else None for path in paths)
        errors = results / task / "errors.csv"
        records.append(Record(task, study, int8, executor, pd.read_csv(errors) if errors.is_file() else None))
        if missing := [path.stem for path, each in zip(paths, (study, int8, executor), strict=True) if each is None]:
            print(f"not measured, so left as it was: {task}, {', '.join(missing)}")
    return records


def time_table(records: Sequence[Record]) -> str:
    """TangoBERT's Table 2: speed-up in time one row at a time, and what was kept of the Super's quality."""
    columns = [(target, reading) for target in TARGETS for reading in READINGS]
    rows = []
    for record in records:
        points = {(p["method"], p["target"], p["reading"]): p for p in (record.study or {"points": []})["points"]}
        for method, name in METHODS.items():
            chosen = [points.get((method, *column)) for column in columns]
            if any(chosen):
                rows.append([f"{record.task}, {TIMED[record.task]}", name, *map(point_text, chosen)])
    return grid(["task, Swift", "method", *(f"{100 * t:g} %, {READINGS[r]}" for t, r in columns)], rows)


def point_text(point: dict[str, Any] | None) -> str:
    """Speed-up with its interval, and what was kept in %."""
    if point is None:
        return "–"
    if not point["reached"]:
        return "not reached"
    low, high = point["speedup_interval"]
    return f"{point['speedup']:.2f}× [{low:.2f}, {high:.2f}] ({100 * point['kept']:.1f})"


def model_table(records: Sequence[Record]) -> str:
    """Latency one row at a time, and TangoBERT's Table 3: throughput at each model's best batch size."""
    rows = []
    for record in records:
        if record.study is None:
            continue
        for each in record.study["contenders"]:
            single, batched = each["single"], each["batched"]
            name = TIMED_EXITS if each["name"] == "exits" else each["name"]
            latency = [f"{single[quantile]['median']:.1f}" for quantile in ("mean", "p50", "p95", "p99")]
            speed = f"{batched['rows_per_second']['median']:,.0f}"
            ratios = [f"{kind['speedup']:.2f}×" for kind in (single, batched)]
            # Both on the rows that were timed; a cascade's on all rows, as it comes from the table.
            known = each.get("quality") is not None and each["quality_of_super"] > 0
            kept = f"{100 * each['quality'] / each['quality_of_super']:.1f}" if known else "–"
            rows.append([record.task, name, *latency, ratios[0], str(each["batch_size"]), speed, ratios[1], kept])
        for run in (run for run in record.study["throughput"] if run["batch"] == "best"):
            ones = {"method": "cascade", "reading": "expected", "target": run["target"]}
            (point,) = (p for p in record.study["points"] if ones.items() <= p.items())
            latency = [f"{point['latency'][quantile]['median']:.1f}" for quantile in ("mean", "p50", "p95", "p99")]
            sizes = ", ".join(map(str, run["batch_sizes"].values()))
            speed, ratio = run["rows_per_second"]["median"], run["speedup"]["median"]
            name, kept = f"cascade at {100 * run['target']:g} %", f"{100 * run['kept']:.1f}"
            cells = [f"{point['speedup']:.2f}×", sizes, f"{speed:,.0f}", f"{ratio:.2f}×", kept]
            rows.append([record.task, name, *latency, *cells])
    head = ["task", "model", "ms", "p50", "p95", "p99", "speed-up", "batch", "rows/s", "speed-up", "kept, %"]
    return grid(head, rows)


def int8_table(records: Sequence[Record]) -> str:
    """The Super in int8 against float32, and before it."""
    rows = []
    for record in records:
        if record.int8 is None:
            continue
        (rival,) = (each for each in record.int8["contenders"] if each["name"] == record.int8["super"])
        lower = record.int8["contenders"][0]
        metric, (first, last) = record.int8["metric"], record.int8["qualities"].values()
        points = {(p["method"], p["target"], p["reading"]): p for p in record.int8["points"]}
        cells = [f"{100 * last:.1f}", f"{100 * first:.1f}", f"{100 * lower['agrees']:.1f}"]
        for kind in ("single", "batched"):
            low, high = lower[kind]["speedup_interval"]
            cells.append(f"{lower[kind]['speedup']:.2f}× [{low:.2f}, {high:.2f}]")
        cells.append(f"{rival['single']['mean']['median']:.1f} / {lower['single']['mean']['median']:.1f}")
        rows.append([f"{record.task} ({metric})", *cells, point_text(points[("cascade", 0.99, "expected")])])
    head = ["task", "float32, %", "int8, %", "same answers, %", "speed-up, batch 1", "speed-up, best batch", "ms"]
    return grid([*head, "int8, then float32, at 99 %"], rows)


def executor_table(records: Sequence[Record]) -> str:
    """Exits in batches of 32 against the sum over layers of the rows alive times their time in a full batch."""
    rows = []
    for record in records:
        if record.executor is not None:
            wall = record.executor["wall"]
            ideal = f"{100 * wall['ratio']:.1f} [{100 * wall['low']:.1f}, {100 * wall['high']:.1f}]"
            rows.append([record.task, ideal, " / ".join(f"{100 * share:.0f}" for share in record.executor["shares"])])
    return grid(["task", "of the ideal, % (95 %)", "rows that leave at each exit, %"], rows)


def error_table(records: Sequence[Record]) -> str:
    """TangoBERT's Fig. 4 as numbers: rows that the Super corrects and breaks, by tenth of the Swift's score."""
    rows, tenths = [], range(1, 11)
    for record in records:
        if record.errors is None:
            continue
        frame = record.errors
        by = frame[(frame.score == frame.score.iloc[0]) & (frame.split == frame.split.iloc[0])].set_index("quantile")
        cells = [f"{by.corrected.get(tenth, 0)} / {by.broken.get(tenth, 0)}" for tenth in tenths]
        rows.append([f"{record.task}, {TIMED[record.task]}", str(int(by.rows.sum())), *cells])
    return grid(["task, Swift", "rows", *map(str, tenths)], rows)


def prediction_table(records: Sequence[Record]) -> str:
    """What the table of times says of the executor's mean time, over what it took."""
    rows = []
    for record in records:
        for what, study in (("cascade", record.study), ("int8, then float32", record.int8)):
            for each in study["prediction"] if study else ():
                cells = [f"{each['predicted_ms']:.2f}", f"{each['measured_ms']:.2f}", f"{each['ratio']:.2f}"]
                rows.append([record.task, what, f"{100 * each['target']:g} %", each["batch"], *cells])
    return grid(["task", "model", "target", "batch", "predicted ms", "measured ms", "ratio"], rows)


def how(records: Sequence[Record]) -> str:
    """What was measured, and on what."""
    studies = [study for record in records for study in (record.study, record.int8) if study is not None]
    machines = {
        f"{m['processor']}, {m['threads']} threads, {m['instructions']}, torch {m['torch']}"
        for m in (study["machine"] for study in studies)
    }
    return (
        f"{'; '.join(sorted(machines))}. All models take turns; medians of {studies[0]['settings']['repeats']} "
        "repetitions, with 95 % intervals over rows and repetitions; in round brackets the share of the Super's "
        "quality kept, in %. Times are of models and decisions, without tokenising. *Expected*: chosen on calibration "
        "rows; *in-sample*: on the test rows, as TangoBERT does."
    )


MAKERS: dict[str, tuple[Callable[[Sequence[Record]], str], tuple[str, ...]]] = {
    "time": (lambda records: f"{how(records)}\n\n{time_table(records)}", ("study",)),
    "models": (model_table, ("study",)),
    "int8": (int8_table, ("int8",)),
    "executor": (executor_table, ("executor",)),
    "errors": (error_table, ("errors",)),
    "prediction": (prediction_table, ("study", "int8")),
}
"""By the name of its place how a table is made, and what every task must have for it."""


def tables(records: Sequence[Record], data: str, models: str) -> dict[str, str]:
    """What the page shows, by the name of its place; without what is not there of every task.

    Args:
        records: from :func:`collect`.
        data: as for `make results`.
        models: as for `make results`.
    """
    steps = [step for record in records for step in measured_steps(Cell(record.task, data=data, models=models))]
    complete = {
        name: make(records)
        for name, (make, parts) in MAKERS.items()
        if all(getattr(record, part) is not None for record in records for part in parts)
    }
    return {**complete, "time-commands": code(steps)}
