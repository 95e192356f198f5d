"""Several runs, and points from papers, on one plot and in one table."""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dial.claims import check_files
from dial.costs.printed import Printed
from dial.costs.published import Published
from dial.files import atomic_write, plain, read_json, write_json
from dial.report.runs import Run, read_run
from dial.report.tables import amount, percent, table, with_interval

__all__ = ["Comparison", "Run", "pareto_hull", "read_run"]

KINDS = ("expected", "confident")
SHOWN = ("kind", "target", "speedup", "speedup_interval", "kept", "kept_interval", "held", "flops")
"""Of each operating point."""
FILES = {"results": "compare.json", "table": "compare.csv", "plot": "compare.png", "exits": "compare_exits.png"}


def pareto_hull(flops: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Indices of the points on the upper hull, cheapest first: what mixtures of all points can reach at best.

    It starts at the cheapest point and ends at the best one; only points that cost more than all better ones are
    left out.

    Example:
        >>> pareto_hull(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.6, 0.9, 0.8])).tolist()
        [0, 2]
    """
    order = np.lexsort((-quality, flops))
    hull: list[int] = []
    for index in order:
        if hull and quality[index] <= quality[hull[-1]]:
            continue
        while len(hull) >= 2 and _above(hull[-2], index, hull[-1], flops, quality):
            hull.pop()
        hull.append(int(index))
    return np.array(hull, dtype=np.int64)


def _above(first: int, last: int, middle: int, flops: np.ndarray, quality: np.ndarray) -> bool:
    """Whether the line from first to last passes at or above the point between them."""
    run, rise = flops[last] - flops[first], quality[last] - quality[first]
    return bool((quality[middle] - quality[first]) * run <= rise * (flops[middle] - flops[first]))


class Comparison:
    """Runs and published points side by side.

    Args:
        runs: from :func:`read_run`; of one metric.
        points: from :func:`read_points`.
        printed: numbers of papers; those that have the runs' metric and a count that can be converted are points, too.

    Raises:
        ValueError: the runs' primary metrics differ.
    """

    def __init__(self, runs: Sequence[Run], points: Sequence[Published] = (), printed: Sequence[Printed] = ()) -> None:
        metrics = {run.metric for run in runs}
        if len(metrics) > 1:
            each = ", ".join(f"{run.name}: {run.metric}" for run in runs)
            raise ValueError(f"`runs` must have one primary metric, but got {each}; sweep one again with --metrics.")
        self.runs, self.metric = _named_apart(runs), metrics.pop()
        overlaid = {row: row.point() for row in printed if row.metric == self.metric}
        points = [*points, *(point for point in overlaid.values() if point is not None)]
        self.points, self.others = points, [row for row in printed if overlaid.get(row) is None]
        owners = [np.full(len(run.flops), i) for i, run in enumerate(self.runs)] + [np.arange(len(points)) + len(runs)]
        self.owner = np.concatenate(owners).astype(np.int64)
        self.flops = np.concatenate([run.flops for run in self.runs] + [np.array([p.flops for p in points])])
        self.quality = np.concatenate([run.quality for run in self.runs] + [np.array([p.quality for p in points])])
        self.hull = pareto_hull(self.flops, self.quality)

    @property
    def same_rows(self) -> bool:
        """Whether all runs were measured on the same rows, as far as their tables still tell."""
        known = {run.rows for run in self.runs if run.rows is not None}
        return len(known) <= 1 and len({(run.split, run.result.rows) for run in self.runs}) == 1

    @property
    def names(self) -> list[str]:
        """Runs, then points."""
        return [*(run.name for run in self.runs), *(point.name for point in self.points)]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row per run and published point."""
        on_hull = set(self.owner[self.hull].tolist())
        rows: list[dict[str, Any]] = []
        for index, run in enumerate(self.runs):
            row: dict[str, Any] = {"name": run.name, "split": run.split, "rows": run.result.rows, "score": run.score}
            row |= {"quality": run.best, "flops": run.alone, "on_hull": index in on_hull}
            points = (point for point in run.result.select(score=run.score) if point.kind in KINDS)
            row["points"] = [{name: getattr(point, name) for name in SHOWN} for point in points]
            rows.append(row | {"partial": run.results.partial})
        for index, point in enumerate(self.points, start=len(self.runs)):
            row = {"name": point.name, "quality": point.quality, "flops": point.flops}
            rows.append(row | {"on_hull": index in on_hull, "points": []})
        return rows

    def text(self) -> str:
        """A readable table."""
        columns = [(target, kind) for target in (0.99, 0.98) for kind in KINDS]
        header = ["run", "rows", "score", f"{self.metric} %", "FLOPs", "hull"]
        header += [f"{100 * target:g} % {kind}" for target, kind in columns]
        body = []
        for row in self.rows:
            points = {(point["target"], point["kind"]): point for point in row["points"]}
            cells = [row["name"], f"{row['rows']:,}" if "rows" in row else "–", row.get("score", "published")]
            cells += [percent(row["quality"], 2), amount(row["flops"]), "yes" if row["on_hull"] else ""]
            for column in columns:
                point = points.get(column)
                cells.append(with_interval(point["speedup"], point["speedup_interval"]) if point else "–")
            body.append(cells)
        lines = [
            "Quality and cost (2 × MAC per row) of each Super, or last exit, alone; speed-ups keep 99 and 98 % of it. "
            f"Metric: {self.metric}.",
            "",
            table(header, body),
            "",
        ]
        if not self.same_rows:
            lines.append("The runs were measured on different rows; compare their qualities with care.")
        if any(row.get("partial") for row in self.rows):
            lines.append("PARTIAL runs are among them; their numbers mean nothing.")
        if self.others:
            lines += ["Printed in another metric, or at a cost that is no count of FLOPs, and so not on the axis:"]
            lines += [f"  {row.text()}" for row in self.others]
        return "\n".join(lines).rstrip() + "\n"

    def configuration(self) -> str:
        """Fingerprint of what the comparison is made of."""
        parts = [[run.results.configuration, run.split, run.score] for run in self.runs]
        others = [[vars(row) for row in self.others]] if self.others else []
        content = plain([parts, [vars(point) for point in self.points], *others])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: str | Path, argument: str = "out") -> Path:
        """Write ``compare.json``, ``compare.png`` and ``compare.csv`` (the hull's points), each whole or not at all.

        Where a run has several exits also ``compare_exits.png``, the quality of each.

        Raises:
            ValueError: the folder holds a comparison of other runs, a run's results, or somebody's files; names
                ``argument``.
        """
        from dial.report.figures.compare import compare_figure  # matplotlib: only where something is drawn
        from dial.report.figures.exits import compare_exits_figure
        from dial.report.figures.style import save

        folder = Path(folder)
        self._check(folder, argument)
        # First: it tells whose the others are.
        head = {"schema": 1, "configuration": self.configuration(), "metric": self.metric}
        printed = {"printed": [vars(row) for row in self.others]} if self.others else {}
        write_json(folder / FILES["results"], head | {"same_rows": self.same_rows, "rows": self.rows} | printed)
        hull = self.flops[self.hull], self.quality[self.hull]
        save(compare_figure(self.runs, self.points, hull), folder / FILES["plot"])
        if (exits := compare_exits_figure(self.runs)) is not None:
            save(exits, folder / FILES["exits"])
        with (
            atomic_write(folder / FILES["table"]) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as handle,
        ):
            writer = csv.writer(handle)
            writer.writerow(["name", "flops", self.metric])
            points = zip(self.owner[self.hull], *hull, strict=True)
            writer.writerows([self.names[owner], float(flops), float(quality)] for owner, flops, quality in points)
        return folder

    def _check(self, folder: Path, argument: str) -> None:
        """Refuses a folder that holds something other than this comparison."""
        path = folder / FILES["results"]
        ours = path.exists() and "configuration" in read_json(path, argument)
        check_files(folder, list(FILES.values()), ours, argument)
        same = path.exists() and read_json(path, argument).get("configuration") == self.configuration()
        if (path.exists() and not same) or (folder / "summary.json").exists():
            raise ValueError(
                f"`{argument}` must be a new folder or one of the same comparison, "
                f"but {folder} holds other results; choose another."
            )


def _named_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs whose folders share a name get their whole path as name."""
    names = [run.name for run in runs]
    apart = [run.name if names.count(run.name) == 1 else str(run.folder) for run in runs]
    return [dataclasses.replace(run, name=name) for run, name in zip(runs, apart, strict=True)]
