"""Tables of what was measured on the clock: time at operating points, models alone, int8, the executor, errors.

Measurements are kept as JSON in `results/<task>/`. A table is written anew only where all its tasks have what it is
made of; else it stays as it was, in the README and in `results/README.md`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.results_measured import EXITS, SEED, SWIFTS, measured_steps
from scripts.results_steps import cell, sweep_of

METHODS = {"exits": EXITS, "random": "random", "cascade": "cascade", "oracle": "oracle"}
READINGS = {"expected": "expected", "in_sample": "in-sample"}
TARGETS = (0.99, 0.98)


@dataclass(frozen=True)
class Record:
    """What was measured on one task; None where that step has not run.

    Attributes:
        task: name.
        study: content of the cascade's `study.json`.
        int8: content of that of int8 before float32.
        executor: what `bench_executor.py` found.
        sweep: folder of the cascade's sweep.
    """

    task: str
    study: dict[str, Any] | None
    int8: dict[str, Any] | None
    executor: dict[str, Any] | None
    sweep: Path | None


def collect(runs: Path, kept: Path) -> list[Record]:
    """One record per task, in the order of the plan.

    Args:
        runs: folder with the sweeps.
        kept: folder with what was measured, by task.
    """
    records = []
    for task, swift in SWIFTS.items():
        paths = [kept / task / f"{name}.json" for name in ("study", "study-int8", "executor")]
        found = [json.loads(path.read_text()) if path.is_file() else None for path in paths]
        sweep = Path(sweep_of(cell(str(runs), task, SEED), f"cascade-{swift}"))
        study, int8, executor = found
        records.append(Record(task, study, int8, executor, sweep if (sweep / "errors.csv").is_file() else None))
        if missing := [path.stem for path, each in zip(paths, found, strict=True) if each is None]:
            print(f"not measured, so left as it was: {task}, {', '.join(missing)}")
    return records


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def time_lines(records: Sequence[Record]) -> list[str]:
    """TangoBERT's Table 2: speed-up in time one row at a time, and what was kept of the Super's quality."""
    columns = [(target, reading) for target in TARGETS for reading in READINGS]
    rows = []
    for record in records:
        points = {(p["method"], p["target"], p["reading"]): p for p in (record.study or {"points": []})["points"]}
        for method, name in METHODS.items():
            found = [points.get((method, *column)) for column in columns]
            if any(found):
                rows.append([f"{record.task}, {SWIFTS[record.task]}", name, *map(point_cell, found)])
    return grid(["task, Swift", "method", *(f"{100 * t:g} %, {READINGS[r]}" for t, r in columns)], rows)


def point_cell(point: dict[str, Any] | None) -> str:
    """Speed-up with its interval, and what was kept in %."""
    if point is None:
        return "–"
    if not point["reached"]:
        return "not reached"
    low, high = point["speedup_interval"]
    return f"{point['speedup']:.2f}× [{low:.2f}, {high:.2f}] ({100 * point['kept']:.1f})"


def model_lines(records: Sequence[Record]) -> list[str]:
    """Latency one row at a time, and TangoBERT's Table 3: throughput at each model's best batch size."""
    rows = []
    for record in records:
        if record.study is None:
            continue
        for each in record.study["contenders"]:
            single, batched = each["single"], each["batched"]
            name = EXITS if each["name"] == "exits" else each["name"]
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


def int8_lines(records: Sequence[Record]) -> list[str]:
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
        rows.append([f"{record.task} ({metric})", *cells, point_cell(points[("cascade", 0.99, "expected")])])
    head = ["task", "float32, %", "int8, %", "same answers, %", "speed-up, batch 1", "speed-up, best batch", "ms"]
    return grid([*head, "int8, then float32, at 99 %"], rows)


def executor_lines(records: Sequence[Record]) -> list[str]:
    """Exits in batches of 32 against the sum over layers of the rows alive times their time in a full batch."""
    rows = []
    for record in records:
        if record.executor is not None:
            wall = record.executor["wall"]
            ideal = f"{100 * wall['ratio']:.1f} [{100 * wall['low']:.1f}, {100 * wall['high']:.1f}]"
            rows.append([record.task, ideal, " / ".join(f"{100 * share:.0f}" for share in record.executor["shares"])])
    return grid(["task", "of the ideal, % (95 %)", "rows that leave at each exit, %"], rows)


def error_lines(records: Sequence[Record]) -> list[str]:
    """TangoBERT's Fig. 4 as numbers: rows that the Super corrects and breaks, by tenth of the Swift's score."""
    rows, tenths = [], range(1, 11)
    for record in records:
        if record.sweep is None:
            continue
        frame = pd.read_csv(record.sweep / "errors.csv")
        frame = frame[(frame.score == frame.score.iloc[0]) & (frame.split == frame.split.iloc[0])]
        by = frame.set_index("quantile")
        cells = [f"{by.corrected.get(tenth, 0)} / {by.broken.get(tenth, 0)}" for tenth in tenths]
        rows.append([f"{record.task}, {SWIFTS[record.task]}", str(int(by.rows.sum())), *cells])
    return grid(["task, Swift", "rows", *map(str, tenths)], rows)


def prediction_lines(records: Sequence[Record]) -> list[str]:
    """What the table of times says of the executor's mean time, over what it took."""
    rows = []
    for record in records:
        for what, study in (("cascade", record.study), ("int8, then float32", record.int8)):
            for each in study["prediction"] if study else ():
                cells = [f"{each['predicted_ms']:.2f}", f"{each['measured_ms']:.2f}", f"{each['ratio']:.2f}"]
                rows.append([record.task, what, f"{100 * each['target']:g} %", each["batch"], *cells])
    return grid(["task", "model", "target", "batch", "predicted ms", "measured ms", "ratio"], rows)


TITLES = {
    "time": "Time: speed-up one row at a time (TangoBERT, Table 2)",
    "models": "Time: models alone and cascades (TangoBERT, Table 3)",
    "int8": "Time: int8",
    "executor": "Time: the executor of exits against its ideal",
    "errors": "Errors that the Super corrects / makes, by tenth of the Swift's score",
}


MAKERS: dict[str, tuple[Callable[[Sequence[Record]], list[str]], str]] = {
    "time": (time_lines, "study"),
    "models": (model_lines, "study"),
    "int8": (int8_lines, "int8"),
    "executor": (executor_lines, "executor"),
    "errors": (error_lines, "sweep"),
}
"""By the name of its markers in the README how a table is made, and what every task must have for it."""
PREDICTED, COMMANDS = "Time: predicted from the table of times, against the executor's", "Time: commands"


def tables(records: Sequence[Record]) -> dict[str, list[str]]:
    """The tables that can be made, by the name of their markers in the README."""
    return {name: make(records) for name, (make, part) in MAKERS.items() if has_all(records, part)}


def has_all(records: Sequence[Record], *parts: str) -> bool:
    """Whether there is something of every task."""
    return bool(records) and all(getattr(record, part) is not None for record in records for part in parts)


def sections(
    records: Sequence[Record], data: str, models: str, earlier: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Titles and texts for `results/README.md`: made anew where everything is there, else as they were.

    Args:
        records: from :func:`collect`.
        data: as for `make results`.
        models: as for `make results`.
        earlier: titles and texts of the page as it is.
    """
    made = {TITLES[name]: "\n".join(lines) for name, lines in tables(records).items()}
    if TITLES["time"] in made:
        made[TITLES["time"]] = f"{how(records)}\n\n{made[TITLES['time']]}"
    if has_all(records, "study", "int8"):
        made[PREDICTED] = "\n".join(prediction_lines(records))
    found = {**(earlier or {}), **made}
    shown = {title: found[title] for title in (*TITLES.values(), PREDICTED) if title in found}
    commands = [str(step) for record in records for step in measured_steps(data, models, "runs/results", record.task)]
    return {**shown, COMMANDS: "\n".join(["```", *commands, "```"])} if shown else {}


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


def figures(records: Sequence[Record], out: Path) -> Iterator[Path]:
    """Copy the figures of each task's errors beside the tables."""
    for record in records:
        if record.sweep is not None and (record.sweep / "errors.png").is_file():
            (out / record.task).mkdir(parents=True, exist_ok=True)
            yield Path(shutil.copyfile(record.sweep / "errors.png", out / record.task / "errors.png"))
