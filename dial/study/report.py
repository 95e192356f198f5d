"""The measured study as a readable page, with TangoBERT's tables 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dial.files import atomic_write, write_json
from dial.report.tables import percent, table, with_interval

FILES = ("times.json", "study.md", "study.png", "study.json")
METHODS = {"cascade": "cascade", "random": "random routing", "oracle": "oracle (knows the labels)", "exits": "exits"}
READINGS = {"expected": "expected", "in_sample": "in-sample"}


def write_study(folder: str | Path, results: dict[str, Any]) -> Path:
    """Write ``study.md``, ``study.png`` and, last, ``study.json``, each whole or not at all.

    Args:
        folder: is created.
        results: what :meth:`dial.study.study.Study.run` gives.
    """
    from dial.report.figures.style import save  # matplotlib: only where something is drawn
    from dial.study.figure import study_figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "study.md") as temporary:
        temporary.write_text(render(results), encoding="utf-8")
    save(study_figure(results), folder / "study.png")
    write_json(folder / "study.json", results)
    return folder


def render(results: dict[str, Any]) -> str:
    """Plain text that is also Markdown: aligned tables are indented as code.

    Args:
        results: see :func:`write_study`.
    """
    parts = [
        _heading(results),
        "Each model alone, one row at a time (ms) and in batches of its best size (rows/s):",
        _contenders(results),
        f"Speed-up in time over {results['super']} alone, one row at a time (TangoBERT, Table 2):",
        _points(results),
        "What the executor did with texts of all lengths at the `expected` points (TangoBERT, Table 3):",
        _throughput(results),
        "Mean time predicted from the table of times (times.json), against the executor's:",
        _prediction(results),
        *(f"Not measured: {name}: {reason}" for name, reason in results.get("skipped", {}).items()),
    ]
    return "\n\n".join(_indented(part) for part in parts) + "\n"


def _indented(part: str) -> str:
    return "\n".join(f"  {line}" for line in part.split("\n")) if part.startswith("  ") else part


def _heading(results: dict[str, Any]) -> str:
    """How the times were taken, on what machine and on which rows."""
    machine, settings = results["machine"], results["settings"]
    task = f" of {results['task']}" if results.get("task") else ""
    lines = [
        f"# Measured study{task}",
        "",
        f"{results['rows']} of {results['rows_of_split']:,} rows of {results['split']}, {settings['repeats']} "
        f"repetitions, all models in turns; {machine['processor']}, {machine['threads']} thread(s), "
        f"{machine['device']}, {machine['instructions']}, torch {machine['torch']}.",
        "Times are of models and decisions, without tokenising unless it says so: medians over the repetitions, with "
        "the lowest and the highest; speed-ups with 95 % intervals over rows and repetitions.",
        f"Quality is {results['metric']} in %, of points over all {results['rows_of_split']:,} rows, of models alone "
        f"over the timed ones. Points are of the score `{results['score']}`, chosen on held-out rows (expected) or on "
        "the reported ones, as the papers do (in-sample). Changed answers, in %, are those other than the Super's; the "
        "pipeline of transformers is timed with its own tokenising.",
    ]
    if results.get("partial"):
        lines.insert(2, "PARTIAL: a trial run on few rows; none of these numbers means anything.")
    return "\n".join(lines)


def ranged(value: dict[str, float], digits: int = 1) -> str:
    """Median with the lowest and the highest.

    Example:
        >>> ranged({"median": 2.0, "low": 1.5, "high": 3.25})
        '2.0 [1.5, 3.2]'
    """
    return with_interval(value["median"], (value["low"], value["high"]), digits=digits)


def _ratio(entry: Mapping[str, Any], name: str = "speedup") -> str:
    return with_interval(entry[name], entry[f"{name}_interval"])


def _contenders(results: dict[str, Any]) -> str:
    """Table of models alone: latency, throughput, quality, and answers other than the Super's."""
    header = ["model", "backend", "dtype", "padded to", "ms", "p50", "p95", "p99", "CPU ms", "speed-up"]
    header += ["batch", "rows/s", "CPU ms/row", "speed-up", "quality", "changed answers"]
    rows = []
    for each in results["contenders"]:
        single, batched = each["single"], each["batched"]
        quality = "–" if each.get("quality") is None else percent(each["quality"])
        changed = "–" if each.get("agrees") is None else percent(1 - each["agrees"])
        rows.append(
            [
                *(each["name"], each.get("backend", "torch"), each["dtype"], str(each["padded_to"] or "–")),
                ranged(single["mean"], 2),
                *(f"{single[name]['median']:.2f}" for name in ("p50", "p95", "p99", "processor")),
                *(_ratio(single), str(each["batch_size"])),
                *(ranged(batched["rows_per_second"]), f"{batched['processor']['median']:.2f}"),
                *(_ratio(batched), quality, changed),
            ]
        )
    return table(header, rows, left=3)


def _points(results: dict[str, Any]) -> str:
    """Table of operating points on the clock, one row at a time (TangoBERT, Table 2)."""
    header = ["target %", "method", "reading", "speed-up", "over padded", "kept %", "ms", "p50", "p95", "p99"]
    rows = []
    for target in results["settings"]["targets"]:
        for each in (point for point in results["points"] if point["target"] == target):
            latency = each["latency"]
            known = each["reached"]
            rows.append(
                [
                    *(f"{100 * target:g}", METHODS[each["method"]], READINGS[each["reading"]]),
                    _ratio(each) if known else "not reached",
                    _ratio(each, "over_padded") if known else "–",
                    *(percent(each["kept"]), ranged(latency["mean"], 2)),
                    *(f"{latency[name]['median']:.2f}" for name in ("p50", "p95", "p99")),
                ]
            )
    return table(header, rows, left=3)


def _throughput(results: dict[str, Any]) -> str:
    """Table of operating points in batches (TangoBERT, Table 3)."""
    header = ["target %", "kept %", "batch sizes", "rows/s", "with tokenising", "CPU ms/row", "speed-up", "over padded"]
    rows = [
        [
            *(f"{100 * each['target']:g}", percent(each["kept"])),
            ", ".join(f"{size}" for size in each["batch_sizes"].values()),
            *(ranged(each["rows_per_second"]), ranged(each["rows_per_second_with_texts"])),
            *(ranged(each["processor"], 2), ranged(each["speedup"], 2), ranged(each["over_padded"], 2)),
        ]
        for each in results["throughput"]
    ]
    return table(header, rows)


def _prediction(results: dict[str, Any]) -> str:
    """Table of the times that times by length predict, beside those that were taken."""
    header = ["target %", "batch", "predicted ms", "measured ms", "ratio"]
    rows = [
        [
            *(f"{100 * each['target']:g}", each["batch"], f"{each['predicted_ms']:.3f}"),
            *(f"{each['measured_ms']:.3f}", f"{each['ratio']:.2f}"),
        ]
        for each in results["prediction"]
    ]
    return table(header, rows)
