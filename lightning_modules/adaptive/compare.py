"""Several runs, and points from papers, on one plot and in one table."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_modules.adaptive.files import atomic_write, plain, write_json
from lightning_modules.adaptive.report_text import amount, percent, table, with_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONVENTIONS = ("mac", "flop", "flop_without_attention")
BERT_BASE = {"length": 128.0, "hidden": 768.0}
FILES = {"results": "compare.json", "table": "compare.csv", "plot": "compare.png"}


@dataclass(frozen=True)
class Run:
    """One run's curve on one split.

    Attributes:
        name: as shown.
        folder: where its results lie.
        summary: its ``summary.json``.
        split: the split shown.
        score: the score shown.
        flops: mean cost per row along the curve, ``(P,)``.
        quality: primary metric along the curve, ``(P,)``.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    split: str
    score: str
    flops: np.ndarray
    quality: np.ndarray

    @property
    def result(self) -> dict[str, Any]:
        """The split's part of the summary."""
        return self.summary["splits"][self.split]

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.summary["metrics"][0]


@dataclass(frozen=True)
class Published:
    """A point of a paper: quality as a fraction, cost in FLOPs (2 × MAC) per row."""

    name: str
    quality: float
    flops: float


def flops_of(cost: float, convention: str, length: float = BERT_BASE["length"], hidden: float = BERT_BASE["hidden"]) -> float:
    """Convert a published cost to FLOPs, one multiply-add counted as two.

    A standard transformer layer has 12·n·d² multiply-adds in its weights and 2·n²·d in its attention products, so a count
    that leaves the latter out is short by the factor 1 + n / 6d whatever the number of layers.

    Args:
        cost: as published.
        convention: "mac" (a multiply-add is one), "flop", or "flop_without_attention" (flop, attention products left out).
        length: n, tokens per row; only for the last convention.
        hidden: d, width of the model; only for the last convention.

    Example:
        >>> round(flops_of(10.872e9, "mac") / 1e9, 3), round(flops_of(21.744e9, "flop_without_attention") / 1e9, 2)
        (21.744, 22.35)
    """
    factors = {"mac": 2.0, "flop": 1.0, "flop_without_attention": 1.0 + length / (6 * hidden)}
    if convention not in factors:
        raise ValueError(f"`convention` must be one of {', '.join(CONVENTIONS)}, but got {convention!r}.")
    return cost * factors[convention]


def read_points(path: str | Path) -> list[Published]:
    """Read published points from CSV (with a header) or JSON (a list of objects).

    Each has ``name``, ``quality`` (all fractions, or all in %), ``cost`` and ``convention``; ``length`` and ``hidden`` may be
    added for ``flop_without_attention`` (else 128 and 768, BERT-base in the papers).

    Raises:
        ValueError: the file cannot be read, or a field is missing or not allowed (naming the line).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`points` must be a CSV or JSON file, but {path} does not exist.")
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except ValueError as error:
        raise ValueError(f"`points` must be a CSV or JSON file, but {path} cannot be read: {error}.") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"`points` must hold at least one point, but {path} holds none.")
    points = [_point(row, number, path) for number, row in enumerate(rows, start=1)]
    scale = 100 if any(point.quality > 1 for point in points) else 1
    return [Published(point.name, point.quality / scale, point.flops) for point in points]


def _point(row: dict[str, Any], number: int, path: Path) -> Published:
    if missing := [name for name in ("name", "quality", "cost", "convention") if not str(row.get(name) or "").strip()]:
        raise ValueError(f"`points` must have name, quality, cost and convention, but point {number} of {path} lacks {', '.join(missing)}.")
    shape = {key: row[key] for key in BERT_BASE if str(row.get(key) or "").strip()}
    try:
        quality, cost = float(row["quality"]), float(row["cost"])
        shape = {key: float(value) for key, value in shape.items()}
    except ValueError as error:
        raise ValueError(f"`points` must have numbers as quality and cost, but point {number} of {path}: {error}.") from error
    try:
        return Published(str(row["name"]).strip(), quality, flops_of(cost, str(row["convention"]).strip(), **shape))
    except ValueError as error:
        raise ValueError(f"{error} Point {number} of {path}.") from error


def read_run(folder: str | Path, split: str | None = None, score: str | None = None) -> Run:
    """Read one run's results.

    Args:
        folder: holds ``summary.json`` and ``curve.parquet``, itself or in ``sweep/``.
        split: reported split (default: the first).
        score: score of the curve (default: the run's first).

    Raises:
        ValueError: there are no such results.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    given = Path(folder)
    found = [place for place in (given, given / "sweep") if (place / "summary.json").is_file() and (place / "curve.parquet").is_file()]
    if not found:
        raise ValueError(f"`runs` must be folders with summary.json and curve.parquet (or a sweep/ with them), but {given} has none.")
    summary = json.loads((found[0] / "summary.json").read_text())
    splits, scores = list(summary["splits"]), summary["settings"]["scores"]
    if split is not None and split not in splits:
        raise ValueError(f"`split` must be one of {', '.join(splits)} of {given}, but got {split!r}.")
    if score is not None and score not in scores:
        raise ValueError(f"`score` must be one of {', '.join(scores)} of {given}, but got {score!r}.")
    split, score = split or splits[0], score or scores[0]
    metric = summary["metrics"][0]
    wanted = (pc.field("split") == split) & (pc.field("score") == score) & (pc.field("rule") == "threshold")
    curve = pq.read_table(found[0] / "curve.parquet", columns=["macs", metric], filters=wanted)
    return Run(given.name, found[0], summary, split, score, 2 * curve["macs"].to_numpy(), curve[metric].to_numpy())


def pareto_hull(flops: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Indices of the points on the upper hull, cheapest first: what mixtures of all points can reach at best.

    It starts at the cheapest point and ends at the best one; only points that cost more than all better ones are left out.

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
    def names(self) -> list[str]:
        """Runs, then points."""
        return [*(run.name for run in self.runs), *(point.name for point in self.points)]

    def rows(self) -> list[dict[str, Any]]:
        """One row per run and published point."""
        on_hull = set(self.owner[self.hull].tolist())
        rows: list[dict[str, Any]] = []
        for index, run in enumerate(self.runs):
            last = run.result["stages"][-1]
            row: dict[str, Any] = {"name": run.name, "split": run.split, "rows": run.result["rows"], "score": run.score}
            row |= {"quality": last["quality"][run.metric], "flops": 2 * run.result["reference_macs"], "on_hull": index in on_hull}
            row["points"] = [
                {key: point.get(key) for key in ("kind", "target", "speedup", "speedup_interval", "kept", "kept_interval", "held", "flops")}
                for point in run.result.get("points", [])
                if point["score"] == run.score and point["kind"] in ("expected", "confident")
            ]
            rows.append(row | {"partial": run.summary["partial"]})
        for index, point in enumerate(self.points, start=len(self.runs)):
            rows.append({"name": point.name, "quality": point.quality, "flops": point.flops, "on_hull": index in on_hull, "points": []})
        return rows

    def text(self) -> str:
        """A readable table."""
        rows, targets = self.rows(), (0.99, 0.98)
        header = ["run", "rows", "score", f"{self.metric} %", "FLOPs", "hull"]
        header += [f"{100 * t:g} % {kind}" for t in targets for kind in ("expected", "confident")]
        body = []
        for row in rows:
            cells = [row["name"], f"{row['rows']:,}" if "rows" in row else "–", row.get("score", "published"), percent(row["quality"], 2)]
            cells += [amount(row["flops"]), "yes" if row["on_hull"] else ""]
            for target in targets:
                for kind in ("expected", "confident"):
                    match = [p for p in row["points"] if p["target"] == target and p["kind"] == kind]
                    cells.append(with_interval(match[0]["speedup"], match[0]["speedup_interval"]) if match else "–")
            body.append(cells)
        lines = [f"Quality and cost (2 × MAC per row) of each Super alone; speed-ups keep 99 and 98 % of it. Metric: {self.metric}."]
        lines += ["", table(header, body), ""]
        if len({(run.split, run.result["rows"]) for run in self.runs}) > 1:
            lines.append("The runs were measured on different rows; compare their qualities with care.")
        if any(row.get("partial") for row in rows):
            lines.append("PARTIAL runs are among them; their numbers mean nothing.")
        return "\n".join(lines).rstrip() + "\n"

    def figure(self) -> "Figure":
        """All curves and points over FLOPs, with the hull."""
        from lightning_modules.adaptive.compare_plot import compare_figure

        return compare_figure(self)

    def configuration(self) -> str:
        """Fingerprint of what the comparison is made of."""
        parts = [[run.summary["configuration"], run.split, run.score] for run in self.runs]
        content = plain([parts, [vars(point) for point in self.points]])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: str | Path) -> Path:
        """Write ``compare.png``, ``compare.csv`` (the hull's points) and ``compare.json``, each whole or not at all.

        Raises:
            ValueError: the folder holds a comparison of other runs, or a run's results.
        """
        folder = Path(folder)
        self._check(folder)
        with atomic_write(folder / FILES["plot"]) as temporary:
            self.figure().savefig(temporary, dpi=150)
        with atomic_write(folder / FILES["table"]) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["name", "flops", self.metric])
            writer.writerows([self.names[self.owner[i]], float(self.flops[i]), float(self.quality[i])] for i in self.hull)
        write_json(folder / FILES["results"], {"schema": 1, "configuration": self.configuration(), "metric": self.metric, "rows": self.rows()})
        return folder

    def _check(self, folder: Path) -> None:
        path = folder / FILES["results"]
        same = path.exists() and json.loads(path.read_text()).get("configuration") == self.configuration()
        if (path.exists() and not same) or (folder / "summary.json").exists():
            raise ValueError(f"`out` must be a new folder or one of the same comparison, but {folder} holds other results; choose another.")


def _named_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs whose folders share a name get their whole path as name."""
    names = [run.name for run in runs]
    return [Run(**{**vars(run), "name": run.name if names.count(run.name) == 1 else str(run.folder)}) for run in runs]
