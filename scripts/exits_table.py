"""Tables of the models with exits: size and cost, quality at each exit, speed-up by early exit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.results_exits import CASCADE, METHODS, REGRESSION, SEED, exit_steps, score_of
from scripts.results_steps import cell, crossfit_of, sweep_of

TARGETS, COST_SHARES = (0.99, 0.98), (0.5, 0.25)
KINDS = {"expected": "expected", "confident": "confident", "crossfit": "crossfit", "in_sample": "in-sample"}


def collect(runs: Path, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """One record per task and model that was tested, in the order of the plan, then the cascade.

    Args:
        runs: folder with `<task>/seed0/sweeps/exits-<method>`.
        tasks: which to look for.
    """
    return [
        record
        for task in tasks
        for run, tiers in tested_runs(task).items()
        for record in read(Path(cell(str(runs), task, SEED)), task, run, tiers)
    ]


def tested_runs(task: str) -> dict[str, tuple[str, ...]]:
    """Tiers of each run of `dial test` on a task."""
    runs: dict[str, tuple[str, ...]] = {
        f"exits-{method.name}": (method.name,) for method in METHODS if method.tested and task in method.tasks
    }
    return runs if task in REGRESSION else {**runs, f"cascade-{CASCADE}": (CASCADE, "super")}


def read(folder: Path, task: str, name: str, tiers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The record of one run; none if it was not tested yet."""
    sweep, again = (Path(of(folder.as_posix(), name)) for of in (sweep_of, crossfit_of))
    if not (sweep / "summary.json").is_file():
        print(f"not done yet: {task}/seed{SEED}/{name}")
        return
    summary, split = summary_of(sweep)
    metric, stages, reference = summary["metrics"][0], split["stages"], split["reference_macs"]
    crossfit = summary_of(again)[1]["points"] if (again / "summary.json").is_file() else []
    score, curve = score_of(task), sweep / "curve.parquet"
    points = [*split["points"], *({**point, "kind": "crossfit"} for point in crossfit if point["kind"] == "confident")]
    own, whole = sizes(summary)
    yield {
        "task": task,
        "method": ", then ".join(tiers),
        "cascade": len(tiers) > 1,
        "metric": metric,
        "parameters": own,
        "compression": whole / own,
        "qualities": [stage["quality"][metric] for stage in stages],
        "full_depth": reference / stages[-1]["macs"],
        "points": [point for point in points if point["score"] == score and point["rule"] == "threshold"],
        "at": {share: quality_at(curve, score, metric, share * reference) for share in COST_SHARES},
    }


def summary_of(sweep: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sweep's summary, and its one reported split."""
    summary = json.loads((sweep / "summary.json").read_text())
    (split,) = summary["splits"].values()
    return summary, split


def sizes(summary: Mapping[str, Any]) -> tuple[int, int]:
    """Parameters of all tiers together, and of what the last is compared with: itself, or its encoder unpruned."""
    tiers = {stage["tier"]: stage["parameters"] for stage in summary["stages"]}
    last = list(tiers)[-1]
    return sum(tiers.values()), summary["compression"].get(last, {}).get("unpruned", tiers[last])


def quality_at(curve: Path, score: str, metric: str, macs: float) -> float | None:
    """The best quality on the test rows that costs at most so many MACs per row; None where every point costs more."""
    frame = pd.read_parquet(curve, columns=["score", "rule", "macs", metric])
    cheap = frame[(frame.score == score) & (frame.rule == "threshold") & (frame.macs <= macs)]
    return float(cheap[metric].max()) if len(cheap) else None


def layer_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """Size, cost and quality at each exit (COST-EFF's Fig. 5 and Table 3 as numbers)."""
    records = [record for record in records if not record["cascade"]]
    depth = max(len(record["qualities"]) for record in records)
    head = ["task", "model", "parameters", "compression", "FLOPs, all layers", "metric"]
    head += [f"exit {exit_ + 1}" for exit_ in range(depth)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for record in records:
        cells = [record["task"], record["method"], f"{record['parameters'] / 1e6:.1f} M"]
        cells += [f"{record['compression']:.2f}×", f"1/{record['full_depth']:.2f}", record["metric"]]
        cells += [f"{100 * quality:.1f}" for quality in record["qualities"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def exit_lines(records: Sequence[dict[str, Any]], target: float = 0.99) -> list[str]:
    """Speed-up against the unpruned encoder at a share of the quality of the last exit, or of a cascade's Super."""
    head = ["task", "model", "last exit, %", *(f"at 1/{1 / share:g} of the FLOPs" for share in COST_SHARES)]
    head += KINDS.values()
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for record in records:
        cells = [record["task"], record["method"], f"{100 * record['qualities'][-1]:.1f} ({record['metric']})"]
        cells += ["–" if (value := record["at"][share]) is None else f"{100 * value:.1f}" for share in COST_SHARES]
        cells += [point_cell(record["points"], kind, target) for kind in KINDS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def point_cell(points: Sequence[dict[str, Any]], kind: str, target: float) -> str:
    """Speed-up, and the share of the last exit's quality kept on test rows in %."""
    found = [point for point in points if point["kind"] == kind and point["target"] == target]
    if not found:
        return "–"
    (point,) = found
    return f"{point['speedup']:.2f}× ({100 * point['kept']:.1f})"


def frame(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per method and operating point."""
    rows = []
    for record in records:
        base = {key: record[key] for key in ("task", "method", "metric", "parameters", "compression", "full_depth")}
        base |= {f"exit{i}": quality for i, quality in enumerate(record["qualities"], 1)}
        keys = ("kind", "target", "kept", "held", "speedup", "speedup_interval")
        rows += [base | {key: point.get(key) for key in keys} for point in record["points"]]
    return pd.DataFrame(rows)


NOTES = """\
Compression is that of all parameters, against the unpruned encoder with one exit. Speed-ups in FLOPs are against the
unpruned encoder with its last exit only, at a share of the quality of the model's own last exit (of a cascade: of the
Super); in brackets what was kept of it on test rows. Score: entropy, on STS-B what the model has learned. *At 1/2 of
the FLOPs*: the best quality on the test rows that costs at most half of the unpruned encoder, read off the test curve,
as papers do.
"""


def sections(records: Sequence[dict[str, Any]], data: str, models: str) -> dict[str, str]:
    """Titles and texts on models with exits; none where none was tested.

    Args:
        records: from :func:`collect`.
        data: as for `make results`.
        models: as for `make results`.
    """
    if not records:
        return {}
    tables = {
        f"Exits: speed-up at {100 * target:g} % of the last exit": "\n".join(exit_lines(records, target))
        for target in TARGETS
    }
    task = records[0]["task"]
    commands = [str(step) for step in exit_steps(data, models, "runs/results", task)]
    listed = "\n".join([f"For {task}; the other tasks differ in names and epochs.\n", "```", *commands, "```"])
    notes = {"Exits: size, cost and quality": "\n".join([NOTES, *layer_lines(records)])}
    return {**notes, **tables, "Exits: commands": listed}
