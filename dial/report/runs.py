"""Finished runs: what `dial compare` reads of their sweeps."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dial.files import readable
from dial.parquet_checks import whole_parquet
from dial.report.results import SplitResult, SweepResults, read_results


@dataclass(frozen=True)
class Run:
    """One run's curve on one split.

    Attributes:
        name: as shown.
        folder: where its results lie.
        results: of its sweep.
        split: the split shown.
        score: the score shown.
        flops: mean cost per row along the curve, ``(P,)``.
        quality: primary metric along the curve, ``(P,)``.
        rows: fingerprint of the split's ids and labels; None where the table is not there any more.
    """

    name: str
    folder: Path
    results: SweepResults
    split: str
    score: str
    flops: np.ndarray
    quality: np.ndarray
    rows: str | None = None

    @property
    def result(self) -> SplitResult:
        """What was found on the split."""
        return self.results.splits[self.split]

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.results.metric

    @property
    def best(self) -> float:
        """Quality of the last stage, a fraction."""
        quality = self.result.stages[-1].quality[self.metric]
        return float("nan") if quality is None else quality

    @property
    def alone(self) -> float:
        """FLOPs per row of the Super without routing; of a multi-exit model those of its last exit.

        What a multi-exit model is compared with, its encoder unpruned, is another model, whose quality is not known.
        """
        exits = self.results.table.get("reference_without_exits")
        return 2 * (self.result.stages[-1].macs if exits else self.result.reference_macs)


def read_run(folder: str | Path, split: str | None = None, score: str | None = None) -> Run:
    """Read one run's results.

    Args:
        folder: holds ``summary.json`` and ``curve.parquet``, itself or in ``sweep/``; with ``@SCORE`` behind it for a
            score of its own. A run of a single stage has no curve, and is one point.
        split: reported split (default: the first).
        score: score of the curve, or ``patience`` (default: the run's first).

    Raises:
        ValueError: there are no such results.
    """
    given, own = _own_score(folder)
    score = own or score
    found = [place for place in (given, given / "sweep") if (place / "summary.json").is_file()]
    if not found:
        raise ValueError(
            f"`runs` must be folders with summary.json and curve.parquet (or a sweep/ with them), but {given} has none."
        )
    place = found[0]
    with readable(place / "summary.json", "runs"):
        return _run(given, place, read_results(place / "summary.json", "runs"), split, score)


def _run(given: Path, place: Path, results: SweepResults, split: str | None, score: str | None) -> Run:
    """One run of a comparison, read and checked: its curve, or its only point."""
    splits = list(results.splits)
    if split is not None and split not in splits:
        raise ValueError(f"`split` must be one of {', '.join(splits)} of {given}, but got {split!r}.")
    split, metric = split or splits[0], results.metric
    name, rows = given.resolve().name, _rows_of(place / "stages.parquet", split)  # "." has no name
    if len(results.stages) == 1:
        (stage,) = results.splits[split].stages
        point = np.array([2 * stage.macs]), np.array([stage.quality[metric]], dtype=float)
        return Run(name, place, results, split, score or "", *point, rows)
    rules = {entry.score: entry.rule for entry in results.splits[split].scores}
    if score is not None and score not in rules:
        raise ValueError(f"`score` must be one of {', '.join(rules)} of {given}, but got {score!r}.")
    score = score or results.settings.scores[0]
    if not (place / "curve.parquet").is_file():
        raise ValueError(f"`runs` must be folders with summary.json and curve.parquet, but {place} lacks the curve.")
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = (pc.field("split") == split) & (pc.field("score") == score) & (pc.field("rule") == rules[score])
    with whole_parquet(place / "curve.parquet", "runs"):
        curve = pq.read_table(place / "curve.parquet", columns=["macs", metric], filters=wanted)
    run = Run(name, place, results, split, score, 2 * curve["macs"].to_numpy(), curve[metric].to_numpy(), rows)
    float(run.best), float(run.alone)  # what readers rely on
    return run


def _own_score(folder: str | Path) -> tuple[Path, str | None]:
    """A folder, and the score that stands behind it.

    Example:
        >>> _own_score("runs/pabee@patience")
        (PosixPath('runs/pabee'), 'patience')
    """
    path, _, score = str(folder).rpartition("@")
    return (Path(path), score) if path and not Path(folder).exists() else (Path(folder), None)


def _rows_of(table: Path, split: str) -> str | None:
    """Fingerprint of the ids and labels of a split's rows, whatever their order."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not table.is_file():
        return None
    with whole_parquet(table, "runs"):
        rows = pq.read_table(table, columns=["sample_id", "label"], filters=pc.field("split") == split)
    pairs = sorted(zip(map(str, rows["sample_id"].to_pylist()), map(float, rows["label"].to_pylist()), strict=True))
    return hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]
