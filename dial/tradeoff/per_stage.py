"""One threshold per stage, by coordinate descent from the best shared dial (for three stages or more)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from dial.stages.metrics.base import Metric
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.point import OperatingPoint
from dial.tradeoff.threshold import Threshold

ROUNDS = 20
STARTS = 24  # in all, shared among the stages
DESCENTS = 4  # from the best shared dial, and from so many of the others that cost least
MENDED = 2  # rounds over all rows after a search on fewer
STEPS = 8  # between what was found on fewer rows and the best shared dial
TOLERANCE = 1e-12  # of the quality asked for


@dataclass(frozen=True)
class PerStage(Threshold):
    """Stay at the first stage whose score reaches the stage's own threshold; found for a target, without one dial."""

    name: ClassVar[str] = "per_stage"
    label: ClassVar[str] = "per stage"
    has_dial: ClassVar[bool] = False

    @classmethod
    def charted(cls, table: StageTable, scores: Sequence[str]) -> list[Self]:
        """None: without one dial there is no curve."""
        return []

    @classmethod
    def searched(cls, chooser: Chooser, target: float) -> OperatingPoint:
        """See :func:`per_stage_thresholds`."""
        return per_stage_thresholds(chooser, target)

    @classmethod
    def refines(cls, chooser: Chooser) -> bool:
        """Whether it can be better than one dial: for three stages or more that decide by a score."""
        return len(chooser.table.stages) > 2 and chooser.rule.by_score


def per_stage_thresholds(chooser: Chooser, target: float) -> OperatingPoint:
    """Cheapest thresholds found whose quality is at least ``target`` times the Super's on the chooser's rows.

    Every stage's threshold in turn is set to its best value given the others, all its values tried at once, until none
    improves. Descent stops at corners of the constraint, so it starts from several places: the best shared dial, and
    each stage's threshold held in turn at values over its whole range while the others are set. The cheapest end
    counts, or the best shared dial where that is cheaper.

    Of more than :data:`~dial.tradeoff.calibration.SEARCHED` rows the search sees as many, drawn by a hash of their ids, and tries their scores as
    thresholds. What it finds is moved towards the best shared dial as far as all rows ask for, and set once more on
    all of them.

    Its many thresholds are fitted to the very rows that they are measured on, so on fresh rows such a point keeps less
    than it seems to: it is exploratory, and nothing is promised of it.

    Args:
        chooser: calibration rows and the score.
        target: share of the Super's quality.
    """
    shared = chooser.expected(target)
    if chooser.nothing_to_keep:
        return shared
    levels = chooser.levels
    start = levels.at(shared.rule.thresholds)
    found = _Problem(chooser, target, levels.drawn).search(start)
    if len(levels.drawn) < len(chooser.table):
        found = _Problem(chooser, target, np.arange(len(chooser.table))).mend(found, start)
    thresholds = [t[level] for t, level in zip(levels.thresholds, found, strict=True)]
    rule = PerStage(chooser.rule.score)
    point = chooser.at(thresholds, "expected", target, rule)
    least = target * float(chooser.quality[-1]) - TOLERANCE
    if point.promise.quality >= least and point.promise.macs <= shared.promise.macs:
        return point
    return chooser.at(shared.rule.thresholds, "expected", target, rule)


class _Problem:
    """Cost and constraint of thresholds, given by their levels, on some rows.

    Args:
        chooser: rows and score.
        target: share of the Super's quality on the rows looked at.
        rows: ``(n,)``, which of the chooser's.
    """

    def __init__(self, chooser: Chooser, target: float, rows: np.ndarray) -> None:
        whole = len(rows) == len(chooser.table)
        costs, statistics = chooser.table.deciding_by(chooser.rule.score).macs, chooser.statistics
        self.stages = costs.shape[1]
        self.reached = chooser.levels.reached if whole else chooser.levels.reached[:, rows]
        self.never = np.array([len(t) - 1 for t in chooser.levels.thresholds])
        # One row a stage of each example, so that both are picked by one number.
        self.macs = (costs if whole else costs[rows]).reshape(-1)
        self.statistics = (statistics if whole else statistics[rows]).reshape(len(self.macs), -1)
        self.metric: Metric = chooser.measured
        best = self.statistics[self.stages - 1 :: self.stages].sum(axis=0)
        self.least = target * float(self.metric.value(best)) - TOLERANCE

    def search(self, start: np.ndarray) -> np.ndarray:
        """The cheapest levels ``(S - 1,)`` found from many starts."""
        places = []
        shares = np.linspace(0, 1, max(2, STARTS // len(self.never) + 1))
        for stage in range(len(self.never)):
            for level in np.unique(np.quantile(self.reached[stage], shares, method="higher")) - 1:
                held = self.never.copy()
                held[stage] = level
                places.append(self.round(held, held=stage))
        places = sorted((place for place in places if np.isfinite(place[0])), key=lambda place: place[0])
        ends = [self.descend(levels, cost, ROUNDS) for cost, levels in [(self.cost(start), start), *places[:DESCENTS]]]
        return min(ends, key=lambda end: end[0])[1]

    def mend(self, found: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Levels as near to those found on fewer rows as these rows allow, then set once more.

        Args:
            found: levels ``(S - 1,)``, whose quality may be too low here.
            start: levels whose quality suffices.
        """
        between = [np.ceil(found + share * (start - found)).astype(int) for share in np.linspace(0, 1, STEPS + 1)]
        low, high = 0, STEPS  # quality is taken to rise from one to the other
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if np.isfinite(self.cost(between[middle])) else (middle + 1, high)
        return self.descend(between[high], self.cost(between[high]), MENDED)[1]

    def descend(self, levels: np.ndarray, cost: float, rounds: int) -> tuple[float, np.ndarray]:
        """Set stage after stage until a round, or the last one allowed, changes nothing; the end and its cost."""
        for _ in range(rounds):
            now, better = self.round(levels)
            if not now < cost:
                break
            cost, levels = now, better
        return cost, levels

    def cost(self, levels: np.ndarray) -> float:
        """Mean MACs where the constraint holds, else infinity."""
        taken = np.arange(self.reached.shape[1]) * self.stages + self._following(levels)[0]
        return self._judged(self.statistics[taken].sum(axis=0), self.macs[taken].sum())

    def _judged(self, sums: np.ndarray, macs: float) -> float:
        return float(macs) / self.reached.shape[1] if self.metric.value(sums) >= self.least else np.inf

    def _following(self, levels: np.ndarray) -> list[np.ndarray]:
        """Per stage the stage ``(n,)`` at which a row ends that comes to it."""
        ends = [np.full(self.reached.shape[1], self.stages - 1)]
        for stage in range(self.stages - 2, -1, -1):
            ends.append(np.where(self.reached[stage] > levels[stage], stage, ends[-1]))
        return ends[::-1]

    def round(self, levels: np.ndarray, held: int | None = None) -> tuple[float, np.ndarray]:
        """Set the level of each stage, from first to last, to its best value given the others; the end and its cost.

        Args:
            levels: ``(S - 1,)``.
            held: a stage whose level stays.
        """
        levels, following = levels.copy(), self._following(levels)
        coming = np.arange(self.reached.shape[1])
        sums, macs = np.zeros(self.statistics.shape[1]), 0.0
        for stage in range(len(levels)):
            reached = self.reached[stage][coming]
            if stage != held:
                after = coming * self.stages + following[stage + 1][coming]
                levels[stage] = self._best(stage, coming, reached, after, sums, macs, levels[stage])
            stays = reached > levels[stage]
            here = coming[stays] * self.stages + stage
            sums, macs = sums + self.statistics[here].sum(axis=0), macs + self.macs[here].sum()
            coming = coming[~stays]
        last = coming * self.stages + self.stages - 1
        return self._judged(sums + self.statistics[last].sum(axis=0), macs + self.macs[last].sum()), levels

    def _best(
        self,
        stage: int,
        coming: np.ndarray,
        reached: np.ndarray,
        after: np.ndarray,
        sums: np.ndarray,
        macs: float,
        level: int,
    ) -> int:
        """Best level of one stage; the present one where none satisfies the constraint.

        Args:
            stage: which.
            coming: rows that come to it.
            reached: their counts of reached thresholds.
            after: where they end that do not stay, as places of ``statistics`` and ``macs``.
            sums: statistics of the rows that have stayed before.
            macs: of the same rows.
            level: the present one.
        """
        if not len(coming):
            return int(self.never[stage])
        here, size = coming * self.stages + stage, int(self.never[stage]) + 1
        otherwise, spent = self.statistics[after], self.macs[after]
        gain = (self.statistics[here] - otherwise).T
        gained = np.stack([_sum_above(reached, column, size) for column in gain], axis=1)
        quality = self.metric.value(sums + otherwise.sum(axis=0) + gained)
        costs = macs + spent.sum() + _sum_above(reached, self.macs[here] - spent, size)
        allowed = quality >= self.least
        if not allowed.any():
            return level
        best = np.flatnonzero(allowed & (costs <= costs[allowed].min() * (1 + 1e-12)))
        best = best[quality[best] >= quality[best].max()]
        # Levels that no coming row lies between are alike; those at an end reach as far as they can.
        return 0 if best[0] == 0 else int(best[-1] if best[-1] == size - 1 else best[len(best) // 2])


def _sum_above(reached: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """For each level below ``size`` the sum of the values ``(M,)`` of the rows that stay under it."""
    counted = np.bincount(reached, weights=values, minlength=size + 1)
    return np.cumsum(counted[:0:-1])[::-1]
