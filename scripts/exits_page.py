"""What `results/exits.md` says of models with exits: size and cost, quality at each exit, speed-up by early exit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.markdown import code, grid
from scripts.results_cell import Cell, crossfit_of, sweep_of
from scripts.results_plan import CLASSIFICATION, REGRESSION, exit_steps, score_of, tested_runs

TARGETS, COST_SHARES = (0.99, 0.98), (0.5, 0.25)
KINDS = {"expected": "expected", "confident": "confident", "crossfit": "crossfit", "in_sample": "in-sample"}
POINT = ("kind", "target", "kept", "held", "speedup", "speedup_interval")
MODEL = ["task", "method"]


def collect(runs: Path, tasks: Sequence[str] = (*CLASSIFICATION, *REGRESSION)) -> pd.DataFrame:
    """One row per task, model and operating point, in the order of the plan, the cascade last.

    Args:
        runs: folder with `<task>/seed0/sweeps/exits-<method>`.
        tasks: which to look for.
    """
    cells = [Cell(task, runs=str(runs)) for task in tasks]
    return pd.DataFrame(
        row
        for cell in cells
        for name, tiers in tested_runs(cell.task).items()
        for row in read(cell, name, ", then ".join(tiers))
    )


def read(cell: Cell, name: str, method: str) -> Iterator[dict[str, Any]]:
    """The rows of one run; none if it was not tested yet."""
    sweep, crossfit = (Path(of(cell.folder, name)) for of in (sweep_of, crossfit_of))
    if not (sweep / "summary.json").is_file():
        print(f"not done yet: {cell.prefix}/{name}")
        return
    summary, split = summary_of(sweep)
    metric, stages, reference = summary["metrics"][0], split["stages"], split["reference_macs"]
    others = summary_of(crossfit)[1]["points"] if (crossfit / "summary.json").is_file() else []
    score, curve = score_of(cell.task), sweep / "curve.parquet"
    points = [*split["points"], *({**point, "kind": "crossfit"} for point in others if point["kind"] == "confident")]
    own, whole = sizes(summary)
    model = {"task": cell.task, "method": method, "metric": metric, "parameters": own, "compression": whole / own}
    model |= {"full_depth": reference / stages[-1]["macs"]}
    model |= {f"exit{i}": stage["quality"][metric] for i, stage in enumerate(stages, 1)}
    model |= {f"at{share:g}": quality_at(curve, score, metric, share * reference) for share in COST_SHARES}
    for point in points:
        if point["score"] == score and point["rule"] == "threshold":
            yield model | {key: point.get(key) for key in POINT}


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


def tables(frame: pd.DataFrame, data: str, models: str) -> dict[str, str]:
    """What the page shows, by the name of its place; without what there are no numbers for.

    Args:
        frame: from :func:`collect` or as it was kept.
        data: as for `make results`.
        models: as for `make results`.
    """
    steps = exit_steps(Cell(frame.task.iloc[0], data=data, models=models))
    known = all(f"at{share:g}" in frame for share in COST_SHARES)
    speedups = {f"exits-{100 * target:g}": exit_table(frame, target) for target in TARGETS} if known else {}
    return {"layers": layer_table(frame), **speedups, "exit-commands": code(list(steps))}


def exits_of(model: pd.Series) -> list[float]:
    """Quality at each exit; of a cascade also of the Super."""
    columns = [name for name in model.index if name.startswith("exit")]
    return [value for value in model[sorted(columns, key=lambda name: int(name[4:]))] if pd.notna(value)]


def layer_table(frame: pd.DataFrame) -> str:
    """Size, cost and quality at each exit (COST-EFF's Fig. 5 and Table 3 as numbers)."""
    frame = frame[~frame.method.str.contains(", then ")].drop_duplicates(MODEL)
    rows = []
    for _, model in frame.iterrows():
        cells = [model.task, model.method, f"{model.parameters / 1e6:.1f} M", f"{model.compression:.2f}×"]
        cells += [f"1/{model.full_depth:.2f}", model.metric]
        rows.append(cells + [f"{100 * quality:.1f}" for quality in exits_of(model)])
    head = ["task", "model", "parameters", "compression", "FLOPs, all layers", "metric"]
    return grid(head + [f"exit {number}" for number in range(1, max(map(len, rows)) - len(head) + 1)], rows)


def exit_table(frame: pd.DataFrame, target: float) -> str:
    """Speed-up against the unpruned encoder at a share of the quality of the last exit, or of a cascade's Super."""
    rows = []
    for _, points in frame.groupby(MODEL, sort=False):
        model = points.iloc[0]
        cells = [model.task, model.method, f"{100 * exits_of(model)[-1]:.1f} ({model.metric})"]
        at = [model[f"at{share:g}"] for share in COST_SHARES]
        cells += ["–" if pd.isna(quality) else f"{100 * quality:.1f}" for quality in at]
        rows.append([*cells, *(point_text(points, kind, target) for kind in KINDS)])
    head = ["task", "model", "last exit, %", *(f"at 1/{1 / share:g} of the FLOPs" for share in COST_SHARES)]
    return grid([*head, *KINDS.values()], rows)


def point_text(points: pd.DataFrame, kind: str, target: float) -> str:
    """Speed-up, and the share of the last exit's quality kept on test rows in %."""
    chosen = points[(points.kind == kind) & (points.target == target)]
    if chosen.empty:
        return "–"
    (point,) = (row for _, row in chosen.iterrows())
    return f"{point.speedup:.2f}× ({100 * point.kept:.1f})"
