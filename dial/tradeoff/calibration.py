"""Operating points: a rule with its values, chosen on calibration rows, with what it promised there."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.stats import norm

from dial.stages.metrics.metrics import Metric
from dial.stages.table import StageTable
from dial.tradeoff.bounds import Margins, lower_bound, rows_needed
from dial.tradeoff.curve import is_random
from dial.tradeoff.density import Densities, densities
from dial.tradeoff.paths import Path, metric_of, row_statistics
from dial.tradeoff.random_routing import RandomPath, stop_chances
from dial.tradeoff.rules import agreement, replay, tiers_left_out, tolerance_of
from dial.tradeoff.taken import Taken, super_alone

Kind = Literal["expected", "confident", "budget", "crossing", "fixed", "in_sample"]
KINDS = ("expected", "confident", "budget", "crossing", "fixed", "in_sample")
NOTHING_TO_KEEP = "only the Super qualifies; its quality is not above zero, so there is nothing to keep"
FIRST_TESTED = 0.05
"""Share of rows that stop early at the first point that ``confident`` tests: below, nothing worth while is saved."""
FIRST_TESTED_WITHOUT_SLACK = 0.25
"""The same where the target leaves no room for losses that were not seen, as 100 % never does: only where the cheaper
point answers this many rows can it be seen to be as good."""


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
        certified: for "confident": lowest and highest share of rows that stop before the last stage among the points
            that were tested and passed. Points with a lower share were not tested.
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
    certified: tuple[float, float] | None = None

    @property
    def only_super(self) -> bool:
        """Whether no row may stop before the last stage."""
        return all(threshold == np.inf for threshold in self.thresholds)

    def stages(self, table: StageTable) -> np.ndarray:
        """Stage taken by every row of any table with this score, ``(N,)``; for random routing that of one draw."""
        return replay(deciding(table, self.rule, self.score, self.tolerance), np.asarray(self.thresholds))

    def taken(self, table: StageTable) -> Taken:
        """What it does with every row of any table with this score; random routing as its expectation.

        Tiers that may answer no row do not run, so where no row may stop early the Super costs what it does alone.
        """
        left_out = tiers_left_out([stage.tier for stage in table.stages], self.thresholds, self.rule)
        if is_random(self.score, self.rule):
            return Taken.drawn(table, stop_chances(self.thresholds), left_out)
        return Taken.at(table, self.stages(table), left_out)


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
    def path(self) -> Path | RandomPath:
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

    @property
    def nothing_to_keep(self) -> bool:
        """Whether the Super's quality is not above zero, so that any share of it is kept by anything."""
        return not self.quality[-1] > 0

    @cached_property
    def macs(self) -> np.ndarray:
        """Mean cost at each point ``(P,)``; at the last, where no row may stop early, that of the Super alone."""
        macs = self.path.macs.copy()
        macs[-1] = super_alone(self.table).macs.mean()
        return macs

    def expected(self, target: float, kind: str = "expected") -> OperatingPoint:
        """Cheapest point whose quality on these rows is at least ``target`` times the Super's.

        Where the Super's own quality is not above zero there is nothing to keep, and it answers alone.
        """
        if self.nothing_to_keep:
            return self._point(len(self.macs) - 1, kind, target, note=NOTHING_TO_KEEP)
        allowed = self.quality >= target * self.quality[-1] - 1e-12
        allowed[-1] = True
        return self._point(_cheapest(allowed, self.macs, self.quality), kind, target)

    def confident(self, target: float, confidence: float = 0.9) -> OperatingPoint:
        """Cheapest certified point, or the Super alone.

        The hypotheses "quality < target · Super" are tested in an order fixed before looking at any answer: from a
        first point on, each with fewer deferred rows, until one is not rejected. So the chance that the point returned
        misses the target is at most 1 − ``confidence``, however many are tested (fixed-sequence testing). Those that
        pass are certified. The first point is where :data:`FIRST_TESTED` of the rows stop early and the mean cost is at
        most that of the Super alone; next to the Super itself there is nothing to be seen and nothing to be saved.
        """
        tested, margin, variance, loss = self._margins.at(target)
        if self.nothing_to_keep:
            return self._super(target, margin, NOTHING_TO_KEEP)
        first = self._first_tested(tested, target, confidence, loss)
        if first is None:
            note = "only the Super qualifies; no point that is tested costs less than it does alone"
            return self._super(target, margin, note)
        bound = lower_bound(margin, variance, loss, confidence, self._margins.groups)
        failed = np.flatnonzero(bound[: first + 1] < 0)
        last = int(failed[-1]) + 1 if len(failed) else 0
        if last > first:
            return self._none_certified(target, confidence, first, margin, variance, loss)
        certified = tested[last : first + 1]
        best = last + _cheapest(np.ones(len(certified), bool), self.macs[certified], self.quality[certified])
        early = self.path.early[certified]
        shares = (float(early.min()), float(early.max()))
        if self.macs[tested[best]] > self.macs[-1]:
            return self._super(target, margin, "only the Super qualifies; no certified point costs less", shares)
        return self._point(tested[best], "confident", target, bound=float(bound[best]), certified=shares)

    def _first_tested(self, tested: np.ndarray, target: float, confidence: float, loss: np.ndarray) -> int | None:
        """Which of the points ``(T,)`` is tested first, chosen without looking at any answer; None if none is."""
        z = norm.ppf(confidence)
        # What the target allows to be lost against what no sample of this size can rule out.
        slack = 1 - target >= ((z**2 + 2) / 3 + z) * float(loss[-1])
        early, macs = self.path.early[tested], self.macs[tested]
        share = FIRST_TESTED if slack else FIRST_TESTED_WITHOUT_SLACK
        enough = np.flatnonzero((early >= share) & (macs <= self.macs[-1]))
        return int(enough[-1]) if len(enough) else None

    def _none_certified(self, target: float, confidence: float, first: int, *measured: np.ndarray) -> OperatingPoint:
        """The Super alone, with the rows that the first point tested would need."""
        margin, variance, loss = (float(values[first]) for values in measured)
        needed = rows_needed(margin, variance, loss, len(self.table), confidence)
        early = 100 * float(self.path.early[self._margins.points[first]])
        where = f"the first point tested, at which {early:.0f} % of the rows stop early"
        if needed is None:
            note = f"only the Super qualifies; {where}, keeps less than the target on these rows"
        else:
            note = f"only the Super qualifies; {where}, needs {needed} rows or more"
        return dataclasses.replace(self._super(target, measured[0], note), rows_needed=needed)

    def _super(
        self, target: float, margin: np.ndarray, note: str, certified: tuple[float, float] | None = None
    ) -> OperatingPoint:
        last = len(self.macs) - 1
        return self._point(last, "confident", target, bound=float(margin[-1]), note=note, certified=certified)

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
            low, high = self.macs.min(), self.macs.max()
            raise ValueError(f"`budgets` must lie in [{low:.6g}, {high:.6g}] MACs per row, but got {macs:.6g}.")
        return point

    def near_budget(self, macs: float) -> OperatingPoint:
        """Like :meth:`budget`, but the cheapest point, with a note, where all cost more."""
        allowed = self.macs <= macs * (1 + 1e-12)
        if not allowed.any():
            cheapest = _cheapest(np.ones(len(allowed), bool), self.macs, self.quality)
            note = f"not reached, as the cheapest point costs {self.macs[cheapest]:.4g}"
            return self._point(cheapest, "budget", macs, note=note)
        return self._point(
            _cheapest(allowed & (self.quality >= self.quality[allowed].max()), self.macs), "budget", macs
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
        values = tuple(float(t) for t in thresholds)
        tolerance = tolerance_of(self.table) if rule == "patience" else 0.0
        point = OperatingPoint(self.score, rule, values, kind, target, 0.0, 0.0, 0.0, tolerance=tolerance)
        taken = point.taken(self.table)
        quality = float(self.measured.value(taken.pick(self.statistics).sum(axis=0)))
        return dataclasses.replace(
            point, quality=quality, macs=float(taken.macs.mean()), super_quality=float(self.quality[-1])
        )

    def thresholds(self, point: int) -> tuple[float, ...]:
        """Raw thresholds of a point of the dial."""
        dial = self.path.dial[point]
        if self.rule == "patience":
            dial = np.ceil(dial)  # agreements are counted; between two numbers nothing changes
        if self.path.quantiles is None:
            return (float(dial),) * (len(self.table.stages) - 1)
        return tuple(float(t) for t in self.path.quantiles.thresholds(dial))

    def _point(self, index: int, kind: str, target: float | None, **more: Any) -> OperatingPoint:
        quality, macs = float(self.quality[index]), float(self.macs[index])
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


def oracle_taken(chooser: Chooser, point: OperatingPoint) -> Taken:
    """What the oracle does with its own rows: its dial orders moves of these, and is no score to be replayed."""
    assert isinstance(chooser.path, Path)
    tiers = [stage.tier for stage in chooser.table.stages]
    stages = chooser.path.events.stages(point.thresholds[0])
    return Taken.at(chooser.table, stages, tiers_left_out(tiers, point.thresholds))


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
) -> tuple[Taken, list[OperatingPoint]]:
    """Choose on all folds but one and apply to that one, in turn.

    Args:
        table: rows of one split.
        choose_on: chooses an operating point on the rows given.
        folds: K.

    Returns:
        What is done with every row, chosen without it, and the K points.

    Raises:
        ValueError: there are fewer rows (or groups) than folds can be filled with.
    """
    fold = folds_of(table, folds)
    parts, points = [], []
    for k in range(folds):
        inside = fold == k
        if not inside.any() or inside.all():
            raise ValueError(
                f"`folds` must leave rows in each fold, but fold {k} of {folds} has {inside.sum()} of {len(fold)} rows."
            )
        points.append(choose_on(table.take(~inside)))
        parts.append((inside, points[-1].taken(table.take(inside))))
    return Taken.joined(table, parts), points


def _cheapest(allowed: np.ndarray, macs: np.ndarray, quality: np.ndarray | None = None) -> int:
    """Index of the cheapest allowed point; of equally cheap ones that of highest quality."""
    best = np.flatnonzero(allowed & (macs <= macs[allowed].min()))
    return int(best[0] if quality is None else best[quality[best].argmax()])
