"""Operating points: a rule with its values, chosen on calibration rows, with what it promised there."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lightning_modules.adaptive.bounds import Margins, lower_bound, rows_needed
from lightning_modules.adaptive.density import Densities, densities
from lightning_modules.adaptive.metrics import Metric
from lightning_modules.adaptive.paths import Path, metric_of, row_statistics
from lightning_modules.adaptive.rules import agreement, replay, tolerance_of
from lightning_modules.adaptive.table import StageTable

Kind = Literal["expected", "confident", "budget", "crossing", "fixed", "in_sample"]
KINDS = ("expected", "confident", "budget", "crossing", "fixed", "in_sample")


@dataclass(frozen=True)
class OperatingPoint:
    """A rule with its values.

    Attributes:
        score: name of the score that decides.
        rule: "threshold" (one dial for all stages), "per_stage" or "patience".
        thresholds: raw scores, one for each stage but the last (stay if score ≥ threshold); for patience the
            number of agreements, the same for all.
        kind: how it was chosen.
        target: share of the Super's quality; for a budget MACs per row; for "fixed" the patience; None at the crossing.
        quality: on the calibration rows.
        macs: mean MACs per row there.
        super_quality: quality of the last stage there.
        bound: one-sided lower bound of quality − target · Super there; only for "confident".
        rows_needed: calibration rows that a first saving would need, where only the Super qualifies.
        note: what a reader must know, empty where nothing.
        tolerance: for patience: numbers agree if they differ by less.
    """

    score: str
    rule: str
    thresholds: tuple[float, ...]
    kind: str
    target: float | None
    quality: float
    macs: float
    super_quality: float
    bound: float | None = None
    rows_needed: int | None = None
    note: str = ""
    tolerance: float = 0.0

    @property
    def only_super(self) -> bool:
        """Whether no row may stop before the last stage."""
        return all(threshold == np.inf for threshold in self.thresholds)

    def stages(self, table: StageTable) -> np.ndarray:
        """Stage taken by every row of any table with this score, ``(N,)``."""
        return replay(deciding(table, self.rule, self.score, self.tolerance), np.asarray(self.thresholds))


def deciding(table: StageTable, rule: str, score: str, tolerance: float) -> np.ndarray:
    """What a rule compares with its thresholds, ``(N, S)``: a score, or for patience the number of agreements."""
    return agreement(table.predictions, tolerance) if rule == "patience" else table.scores[score]


@dataclass(frozen=True)
class Chooser:
    """Chooses operating points of one score and rule on the rows given to it.

    Attributes:
        table: calibration rows.
        score: name of the score.
        rule: "threshold" or "patience".
        metric: what is kept (default: the table's first metric).
    """

    table: StageTable
    score: str
    rule: str = "threshold"
    metric: Metric | None = None

    @cached_property
    def measured(self) -> Metric:
        """The metric that is kept."""
        return self.metric or metric_of(self.table)

    @cached_property
    def path(self) -> Path:
        """All points of the dial on the calibration rows."""
        return Path.of(self.table, self.score, self.rule)

    @cached_property
    def statistics(self) -> np.ndarray:
        """``(N, S, K)``."""
        return row_statistics(self.table, self.measured)

    @cached_property
    def sums(self) -> np.ndarray:
        """``(P, K)``."""
        return self.path.sums(self.statistics)

    @cached_property
    def quality(self) -> np.ndarray:
        """``(P,)``; the last is the Super's."""
        return self.measured.value(self.sums)

    def expected(self, target: float, kind: str = "expected") -> OperatingPoint:
        """Cheapest point whose quality on these rows is at least ``target`` times the Super's."""
        allowed = self.quality >= target * self.quality[-1] - 1e-12
        allowed[-1] = True
        return self._point(_cheapest(allowed, self.path.macs, self.quality), kind, target)

    def confident(self, target: float, confidence: float = 0.9) -> OperatingPoint:
        """Cheapest point reached from the Super down before the first whose lower bound is below zero.

        The hypotheses "quality < target · Super" are tested in an order fixed before looking, so the chance that the
        point returned misses the target is at most 1 − ``confidence``, however many are tested.
        """
        tested, margin, variance, loss = self._margins.at(target)
        bound = lower_bound(margin, variance, loss, confidence)
        failed = np.flatnonzero(bound[:-1] < 0)  # the Super itself needs no test
        first = int(failed[-1]) + 1 if len(failed) else 0
        best = first + _cheapest(
            np.ones(len(tested) - first, bool), self.path.macs[tested[first:]], self.quality[tested[first:]]
        )
        if first < len(tested) - 1:
            return self._point(tested[best], "confident", target, bound=float(bound[best]))
        # Were no row of the first step lost, the margin would still be the Super's own, (1 − target) · quality.
        rows = len(self.table.label)
        needed = (
            rows_needed(float(margin[-1]), float(variance[-1]), float(loss[-1]), rows, confidence) if first else None
        )
        note = "only the Super qualifies; " + (
            "no number of rows shows more" if needed is None else f"a first saving needs {needed} rows or more"
        )
        return self._point(tested[best], "confident", target, bound=float(margin[-1]), rows_needed=needed, note=note)

    @cached_property
    def _margins(self) -> Margins:
        return Margins(self.path, self.statistics, self.measured)

    def budget(self, macs: float) -> OperatingPoint:
        """Best quality at no more than ``macs`` per row on average, the cheaper of equals.

        Raises:
            ValueError: even the cheapest point costs more.
        """
        point = self.near_budget(macs)
        if point.note:
            low, high = self.path.macs.min(), self.path.macs.max()
            raise ValueError(f"`budgets` must lie in [{low:.6g}, {high:.6g}] MACs per row, but got {macs:.6g}.")
        return point

    def near_budget(self, macs: float) -> OperatingPoint:
        """Like :meth:`budget`, but the cheapest point, with a note, where all cost more."""
        allowed = self.path.macs <= macs * (1 + 1e-12)
        if not allowed.any():
            cheapest = _cheapest(np.ones(len(allowed), bool), self.path.macs, self.quality)
            note = f"not reached, as the cheapest point costs {self.path.macs[cheapest]:.4g}"
            return self._point(cheapest, "budget", macs, note=note)
        return self._point(
            _cheapest(allowed & (self.quality >= self.quality[allowed].max()), self.path.macs), "budget", macs
        )

    @cached_property
    def crossings(self) -> list[Densities]:
        """Densities of each stage's score on the rows that it gets right and wrong, last stage left out."""
        right = self.table.predictions == self.table.label[:, None]
        scores = self.table.scores[self.score]
        return [densities(scores[:, s], right[:, s]) for s in range(scores.shape[1] - 1)]

    def crossing(self) -> OperatingPoint | str:
        """The point at E-LANG's crossing, or why there is none."""
        found = self.crossings
        if missing := [
            f"{stage.name}: {d.status}"
            for stage, d in zip(self.table.stages, found, strict=False)
            if d.threshold is None
        ]:
            return "; ".join(missing)
        return self.at([d.threshold for d in found if d.threshold is not None], "crossing", None)

    def patient(self, patience: int) -> OperatingPoint:
        """The operating point that stops once as many stages in a row have repeated their predecessor's answer."""
        thresholds = (float(patience),) * (len(self.table.stages) - 1)
        return self.at(thresholds, "fixed", float(patience), rule="patience")

    def at(self, thresholds: Any, kind: str, target: float | None, rule: str = "threshold") -> OperatingPoint:
        """The operating point with the given raw thresholds, measured on these rows."""
        tolerance = tolerance_of(self.table) if rule == "patience" else 0.0
        scores = deciding(self.table, rule, self.score, tolerance)
        stages = replay(scores, np.asarray(thresholds, dtype=np.float64))
        rows = np.arange(len(stages))
        quality = float(self.measured.value(self.statistics[rows, stages].sum(axis=0)))
        macs = float(self.table.macs[rows, stages].mean())
        values = tuple(float(t) for t in thresholds)
        super_quality = float(self.quality[-1])
        return OperatingPoint(self.score, rule, values, kind, target, quality, macs, super_quality, tolerance=tolerance)

    def thresholds(self, point: int) -> tuple[float, ...]:
        """Raw thresholds of a point of the dial."""
        dial = self.path.dial[point]
        if self.rule == "patience":
            dial = np.ceil(dial)  # agreements are counted; between two numbers nothing changes
        if self.path.quantiles is None:
            return (float(dial),) * (len(self.table.stages) - 1)
        return tuple(float(t) for t in self.path.quantiles.thresholds(dial))

    def _point(self, index: int, kind: str, target: float | None, **more: Any) -> OperatingPoint:
        quality, macs = float(self.quality[index]), float(self.path.macs[index])
        chosen = self.thresholds(index)
        tolerance = tolerance_of(self.table) if self.rule == "patience" else 0.0
        return OperatingPoint(
            self.score,
            self.rule,
            chosen,
            kind,
            target,
            quality,
            macs,
            float(self.quality[-1]),
            tolerance=tolerance,
            **more,
        )


def choose(
    table: StageTable, score: str, target: float, kind: str = "expected", confidence: float = 0.9
) -> OperatingPoint:
    """Choose one operating point on the rows of ``table`` (see :class:`Chooser` for several at once)."""
    chooser = Chooser(table, score)
    if kind == "confident":
        return chooser.confident(target, confidence)
    if kind in ("expected", "in_sample"):
        return chooser.expected(target, kind)
    if kind == "budget":
        return chooser.budget(target)
    raise ValueError(f"`kind` must be expected, confident, in_sample or budget, but got {kind!r}.")


def folds_of(table: StageTable, folds: int) -> np.ndarray:
    """Fold of each row ``(N,)`` by a hash of its group or, without groups, its ``sample_id``: the same in every run."""
    keys = table.sample_id if table.group is None else table.group
    distinct, inverse = np.unique(keys, return_inverse=True)
    digests = [hashlib.blake2b(str(key).encode(), digest_size=8).digest() for key in distinct.tolist()]
    return np.array([int.from_bytes(digest, "little") % folds for digest in digests])[inverse]


def crossfit(
    table: StageTable, choose_on: Callable[[StageTable], OperatingPoint], folds: int = 5
) -> tuple[np.ndarray, list[OperatingPoint]]:
    """Choose on all folds but one and apply to that one, in turn.

    Args:
        table: rows of one split.
        choose_on: chooses an operating point on the rows given.
        folds: K.

    Returns:
        The stage of every row ``(N,)``, chosen without that row, and the K points.

    Raises:
        ValueError: there are fewer rows (or groups) than folds can be filled with.
    """
    fold = folds_of(table, folds)
    stages, points = np.zeros(len(fold), dtype=np.int64), []
    for k in range(folds):
        inside = fold == k
        if not inside.any() or inside.all():
            raise ValueError(
                f"`folds` must leave rows in each fold, but fold {k} of {folds} has {inside.sum()} of {len(fold)} rows."
            )
        point = choose_on(table.take(~inside))
        stages[inside] = point.stages(table.take(inside))
        points.append(point)
    return stages, points


def _cheapest(allowed: np.ndarray, macs: np.ndarray, quality: np.ndarray | None = None) -> int:
    """Index of the cheapest allowed point; of equally cheap ones that of highest quality."""
    best = np.flatnonzero(allowed & (macs <= macs[allowed].min()))
    return int(best[0] if quality is None else best[quality[best].argmax()])
