"""Several runs, and points from papers, on one plot and in one table."""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dial.costs.published import Published
from dial.files import atomic_write, plain, read_json, write_json
from dial.ownership import check_files
from dial.report.runs import Run, read_run
from dial.report.text import amount, percent, table, with_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Run", "pareto_hull", "read_run"]

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

    Raises:
        ValueError: the runs' primary metrics differ.
    """

    def __init__(self, runs: Sequence[Run], points: Sequence[Published] = ()) -> None:
        metrics = {run.metric for run in runs}
        if len(metrics) > 1:
            each = ", ".join(f"{run.name}: {run.metric}" for run in runs)
            raise ValueError(f"`runs` must have one primary metric, but got {each}; sweep one again with --metrics.")
        self.runs, self.points, self.metric = _named_apart(runs), list(points), metrics.pop()
        owners = [np.full(len(run.flops), i) for i, run in enumerate(self.runs)] + [np.arange(len(points)) + len(runs)]
        self.owner = np.concatenate(owners).astype(np.int64)
        self.flops = np.concatenate([run.flops for run in self.runs] + [np.array([p.flops for p in points])])
        self.quality = np.concatenate([run.quality for run in self.runs] + [np.array([p.quality for p in points])])
        self.hull = pareto_hull(self.flops, self.quality)

    @property
    def same_rows(self) -> bool:
        """Whether all runs were measured on the same rows, as far as their tables still tell."""
        known = {run.rows for run in self.runs if run.rows is not None}
        return len(known) <= 1 and len({(run.split, run.result["rows"]) for run in self.runs}) == 1

    @property
    def names(self) -> list[str]:
        """Runs, then points."""
        return [*(run.name for run in self.runs), *(point.name for point in self.points)]

    def rows(self) -> list[dict[str, Any]]:
        """One row per run and published point."""
        on_hull = set(self.owner[self.hull].tolist())
        rows: list[dict[str, Any]] = []
        for index, run in enumerate(self.runs):
            row: dict[str, Any] = {"name": run.name, "split": run.split, "rows": run.result["rows"], "score": run.score}
            row |= {
                "quality": run.best,
                "flops": run.alone,
                "on_hull": index in on_hull,
            }
            row["points"] = [
                {
                    key: point.get(key)
                    for key in (
                        "kind",
                        "target",
                        "speedup",
                        "speedup_interval",
                        "kept",
                        "kept_interval",
                        "held",
                        "flops",
                    )
                }
                for point in run.result.get("points", [])
                if point["score"] == run.score and point["kind"] in ("expected", "confident")
            ]
            rows.append(row | {"partial": run.summary["partial"]})
        for index, point in enumerate(self.points, start=len(self.runs)):
            rows.append(
                {
                    "name": point.name,
                    "quality": point.quality,
                    "flops": point.flops,
                    "on_hull": index in on_hull,
                    "points": [],
                }
            )
        return rows

    def text(self) -> str:
        """A readable table."""
        rows, targets = self.rows(), (0.99, 0.98)
        header = ["run", "rows", "score", f"{self.metric} %", "FLOPs", "hull"]
        header += [f"{100 * t:g} % {kind}" for t in targets for kind in ("expected", "confident")]
        body = []
        for row in rows:
            cells = [
                row["name"],
                f"{row['rows']:,}" if "rows" in row else "–",
                row.get("score", "published"),
                percent(row["quality"], 2),
            ]
            cells += [amount(row["flops"]), "yes" if row["on_hull"] else ""]
            for target in targets:
                for kind in ("expected", "confident"):
                    match = [p for p in row["points"] if p["target"] == target and p["kind"] == kind]
                    cells.append(with_interval(match[0]["speedup"], match[0]["speedup_interval"]) if match else "–")
            body.append(cells)
        lines = [
            "Quality and cost (2 × MAC per row) of each Super, or last exit, alone; speed-ups keep 99 and 98 % of it. "
            f"Metric: {self.metric}."
        ]
        lines += ["", table(header, body), ""]
        if not self.same_rows:
            lines.append("The runs were measured on different rows; compare their qualities with care.")
        if any(row.get("partial") for row in rows):
            lines.append("PARTIAL runs are among them; their numbers mean nothing.")
        return "\n".join(lines).rstrip() + "\n"

    def figure(self) -> "Figure":
        """All curves and points over FLOPs, with the hull."""
        from dial.report.figures.compare import compare_figure

        return compare_figure(self)

    def configuration(self) -> str:
        """Fingerprint of what the comparison is made of."""
        parts = [[run.summary["configuration"], run.split, run.score] for run in self.runs]
        content = plain([parts, [vars(point) for point in self.points]])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: str | Path, argument: str = "out") -> Path:
        """Write ``compare.json``, ``compare.png`` and ``compare.csv`` (the hull's points), each whole or not at all.

        Where a run has several exits also ``compare_exits.png``, the quality of each.

        Raises:
            ValueError: the folder holds a comparison of other runs, a run's results, or somebody's files; names
                ``argument``.
        """
        from dial.report.figures.exits import compare_exits_figure

        folder = Path(folder)
        self._check(folder, argument)
        # First: it tells whose the others are.
        write_json(
            folder / FILES["results"],
            {
                "schema": 1,
                "configuration": self.configuration(),
                "metric": self.metric,
                "same_rows": self.same_rows,
                "rows": self.rows(),
            },
        )
        with atomic_write(folder / FILES["plot"]) as temporary:
            self.figure().savefig(temporary, dpi=150)
        if (exits := compare_exits_figure(self)) is not None:
            with atomic_write(folder / FILES["exits"]) as temporary:
                exits.savefig(temporary, dpi=150)
        with (
            atomic_write(folder / FILES["table"]) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as handle,
        ):
            writer = csv.writer(handle)
            writer.writerow(["name", "flops", self.metric])
            writer.writerows(
                [self.names[self.owner[i]], float(self.flops[i]), float(self.quality[i])] for i in self.hull
            )
        return folder

    def _check(self, folder: Path, argument: str) -> None:
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
    return [Run(**{**vars(run), "name": run.name if names.count(run.name) == 1 else str(run.folder)}) for run in runs]
