"""Cells of tables of what was measured on the clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dial.files import read_json
from scripts.markdown import percent

HEAD = ["model", "kept, %", "FLOPs", "ms, batch 1", "speed-up, batch 1", "ms, best batch", "speed-up, best batch"]


def studies(results: Path, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What was measured, by task.

    Args:
        results: folder of the stored tables.
        tasks: folders in it, with a study or without.
    """
    paths = {task: results / task / "study.json" for task in tasks}
    return {task: read_json(path, "results") for task, path in paths.items() if path.is_file()}


def rows_of(study: Mapping[str, Any]) -> list[list[str]]:
    """A row for each way to answer, under :data:`HEAD`: one row at a time and in the best batches.

    Args:
        study: as `dial test` with `--study.rows` leaves it in `study.json`.
    """
    arms = {(arm["name"], arm["target"], arm["batch"]): arm for arm in study["arms"]}
    rows = []
    for name, target in dict.fromkeys((name, target) for name, target, _ in arms):
        kinds = [arms[name, target, batch] for batch in ("1", "best")]
        told = name if target is None else f"{name} at {100 * target:g} %"
        cells = [told, percent(kinds[0]["kept"]), f"{kinds[0]['flops_speedup']:.2f}×"]
        for arm in kinds:
            ratio = arm["time_speedup"]
            cells += [f"{arm['model_ms']['median']:.1f}"]
            cells += [f"{ratio['median']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]"]
        rows.append(cells)
    return rows


def how(study: Mapping[str, Any], rows: str) -> str:
    """On what it was measured, and how.

    Args:
        study: see :func:`rows_of`.
        rows: what its rows are called.
    """
    machine, settings = study["machine"], study["settings"]
    sizes = ", ".join(f"{name} {size}" for name, size in study["batch_sizes"].items())
    text = (
        f"{machine['processor']}, {machine['threads']} threads, {machine['device']}, torch {machine['torch']}; "
        f"{study['rows']} {rows}, medians of {settings['repeats']} repetitions with lowest and highest; best "
        f"batches: {sizes}."
    )
    if study.get("rows_of_split", study["rows"]) != study["rows"]:
        text += f" What is kept and the FLOPs are of all {study['rows_of_split']:,} rows."
    if study.get("crossfit"):
        text += " Points are chosen across folds, and times are at thresholds chosen on all rows."
    return text
