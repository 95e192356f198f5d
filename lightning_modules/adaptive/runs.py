"""Finished runs: what `dial compare` reads of their sweeps."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


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
        rows: fingerprint of the split's ids and labels; None where the table is not there any more.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    split: str
    score: str
    flops: np.ndarray
    quality: np.ndarray
    rows: str | None = None

    @property
    def result(self) -> dict[str, Any]:
        """The split's part of the summary."""
        return self.summary["splits"][self.split]

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.summary["metrics"][0]


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
    found = [
        place
        for place in (given, given / "sweep")
        if (place / "summary.json").is_file() and (place / "curve.parquet").is_file()
    ]
    if not found:
        raise ValueError(
            f"`runs` must be folders with summary.json and curve.parquet (or a sweep/ with them), but {given} has none."
        )
    summary = read_json(found[0] / "summary.json", "runs")
    splits, scores = list(summary["splits"]), summary["settings"]["scores"]
    if split is not None and split not in splits:
        raise ValueError(f"`split` must be one of {', '.join(splits)} of {given}, but got {split!r}.")
    if score is not None and score not in scores:
        raise ValueError(f"`score` must be one of {', '.join(scores)} of {given}, but got {score!r}.")
    split, score = split or splits[0], score or scores[0]
    metric = summary["metrics"][0]
    wanted = (pc.field("split") == split) & (pc.field("score") == score) & (pc.field("rule") == "threshold")
    curve = pq.read_table(found[0] / "curve.parquet", columns=["macs", metric], filters=wanted)
    flops, quality = 2 * curve["macs"].to_numpy(), curve[metric].to_numpy()
    name = given.resolve().name  # "." has none
    return Run(name, found[0], summary, split, score, flops, quality, _rows_of(found[0] / "stages.parquet", split))


def _rows_of(table: Path, split: str) -> str | None:
    """Fingerprint of the ids and labels of a split's rows, whatever their order."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not table.is_file():
        return None
    rows = pq.read_table(table, columns=["sample_id", "label"], filters=pc.field("split") == split)
    pairs = sorted(zip(map(str, rows["sample_id"].to_pylist()), map(float, rows["label"].to_pylist()), strict=True))
    return hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]


def read_json(path: Path, argument: str) -> dict[str, Any]:
    """Content of a file of results, or a ValueError that names ``argument``."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{argument}` must lead to whole results, but {path} is unreadable ({error}).") from error
    return content
