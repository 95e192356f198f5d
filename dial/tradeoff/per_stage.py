"""One threshold per stage, by coordinate descent from the best shared dial (for three stages or more)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from dial.stages.metrics.base import Metric
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.curve import midway
from dial.tradeoff.levels import Levels
from dial.tradeoff.point import OperatingPoint
from dial.tradeoff.threshold import Threshold

ROUNDS = 20
STARTS = 24  # in all, shared among the stages
DESCENTS = 4  # from the best shared dial, and from so many of the others that cost least
AGAIN = 2  # cheapest ends that a search on fewer rows goes on from
MENDED = 1  # rounds over all rows after a search on fewer
STEPS = 9  # from what was found on fewer rows to the best shared dial
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

    Of more than :data:`~dial.tradeoff.calibration.SEARCHED` rows the search sees as many, drawn by a hash of their
    ids, and tries their scores as thresholds. It goes on once more with the target moved by what all rows say of the
    end, and that end is set stage after stage on all rows.

    Its many thresholds are fitted to the very rows that they are measured on, so on fresh rows such a point keeps less
    than it seems to: it is exploratory, and nothing is promised of it.

    Args:
        chooser: calibration rows and the score.
        target: share of the Super's quality.
    """
    shared = chooser.expected(target)
    if chooser.nothing_to_keep:
        return shared
    rule, thresholds = PerStage(chooser.rule.score), _known(chooser, target)
    if thresholds is None:
        thresholds = _searched(chooser, target, shared)
        stays = chooser.rule.values(chooser.table)[:, :-1] >= thresholds
        chooser.curve.along[PerStage.name, target] = rule.score, thresholds, stays
    point = chooser.at(thresholds, "expected", target, rule)
    least = target * float(chooser.quality[-1]) - TOLERANCE
    if point.promise.quality >= least and point.promise.macs <= shared.promise.macs:
        return point
    return chooser.at(shared.rule.thresholds, "expected", target, rule)


def _known(chooser: Chooser, target: float) -> np.ndarray | None:
    """Thresholds found before, or for another score that orders the rows alike: the same rows are to stay by this."""
    if (PerStage.name, target) not in chooser.curve.along:
        return None
    score, thresholds, stays = chooser.curve.along[PerStage.name, target]
    if score != chooser.rule.score:
        thresholds = thresholds_between(chooser.rule.values(chooser.table)[:, :-1], stays)
    known: np.ndarray | None = thresholds
    return known


def thresholds_between(values: np.ndarray, stays: np.ndarray) -> np.ndarray | None:
    """Thresholds ``(S - 1,)`` that these rows reach at each stage and no others; None where there are none.

    Args:
        values: scores ``(N, S - 1)``.
        stays: ``(N, S - 1)``.

    Example:
        >>> thresholds_between(np.array([[0.1], [0.5], [0.9]]), np.array([[False], [True], [True]]))
        array([0.3])
    """
    below = np.where(stays, -np.inf, values).max(axis=0)
    above = np.where(stays, values, np.inf).min(axis=0)
    if not (below < above).all():
        return None
    middle = [midway(np.array(ends))[1] for ends in zip(below, above, strict=True)]
    return np.where(below == -np.inf, -np.inf, np.where(above == np.inf, np.inf, middle))


def _searched(chooser: Chooser, target: float, shared: OperatingPoint) -> np.ndarray:
    """Thresholds ``(S - 1,)`` that a search finds, starting from the best shared dial."""
    levels = chooser.levels
    start = levels.at(shared.rule.thresholds)
    drawn = _Problem(levels.of_drawn, chooser.measured, target)
    ends = drawn.search(start)
    found = ends[0][1]
    if len(levels.drawn) < len(chooser.table):
        everything = _Problem(levels, chooser.measured, target)
        # What just suffices on all rows is to suffice on the drawn ones: few rows are off by more than a search wins.
        drawn.least = everything.least + drawn.quality(found) - everything.quality(found)
        again = min((drawn.descend(levels, ROUNDS) for _, levels in ends[:AGAIN]), key=_cost)
        found = everything.mend([again[1], found], start)
    return np.array([t[level] for t, level in zip(levels.thresholds, found, strict=True)])


class _Problem:
    """Cost and constraint of thresholds, given by their levels, on some rows.

    Args:
        rows: with their levels.
        metric: that is kept.
        target: share of the Super's quality on these rows.
    """

    def __init__(self, rows: Levels, metric: Metric, target: float) -> None:
        self.rows, self.metric = rows, metric
        self.last, self.count = rows.macs.shape[0] - 1, rows.macs.shape[1]
        self.never = np.array([len(t) - 1 for t in rows.thresholds])
        # A row that ends at a stage is one number: the stage's place and the row's behind each other.
        self.macs = rows.macs.reshape(-1)
        self.statistics = [rows.statistics[k].reshape(-1) for k in rows.deciding]
        self.least = target * float(metric.value(rows.last)) - TOLERANCE

    def search(self, start: np.ndarray) -> list[tuple[float, np.ndarray]]:
        """Where descents from several starts end: cost and levels ``(S - 1,)``, cheapest first."""
        places = []
        shares = np.linspace(0, 1, max(2, STARTS // len(self.never) + 1))
        for stage in range(len(self.never)):
            for level in np.unique(np.quantile(self.rows.reached[stage], shares, method="higher")) - 1:
                held = self.never.copy()
                held[stage] = level
                places.append(self.round(held, held=stage))
        places = sorted((place for place in places if np.isfinite(place[0])), key=_cost)
        return sorted((self.descend(levels, ROUNDS) for _, levels in [(0, start), *places[:DESCENTS]]), key=_cost)

    def mend(self, found: list[np.ndarray], start: np.ndarray) -> np.ndarray:
        """The cheapest levels near to those found on fewer rows.

        Args:
            found: levels ``(S - 1,)``, whose quality may be too low here.
            start: levels to go towards, of a point whose quality suffices; between the scores that were drawn they
                are rounded, so it may not quite, which the caller has to look at.
        """
        ends = [self.descend(levels, MENDED) for levels in found]
        if not np.isfinite(min(map(_cost, ends))):
            between = [np.ceil(found[0] + share * (start - found[0])).astype(int) for share in np.linspace(0, 1, STEPS)]
            enough = [levels for levels in between if np.isfinite(self.cost(levels))]
            ends = [self.descend(levels, MENDED) for levels in [*enough[:1], start]]
        return min(ends, key=_cost)[1]

    def descend(self, levels: np.ndarray, rounds: int) -> tuple[float, np.ndarray]:
        """Set stage after stage until a round, or the last one allowed, changes nothing; the end, its cost first."""
        cost = self.cost(levels)
        for _ in range(rounds):
            now, better = self.round(levels)
            if np.isfinite(cost) and not now < cost:
                break
            cost, levels = now, better
        return cost, levels

    def cost(self, levels: np.ndarray) -> float:
        """Mean MACs where the constraint holds, else infinity."""
        return self._judged(*self._sums(self._ends(levels)))

    def quality(self, levels: np.ndarray) -> float:
        """The metric."""
        return float(self._quality(self._sums(self._ends(levels))[0]))

    def _ends(self, levels: np.ndarray) -> np.ndarray:
        return self._following(levels)[0].astype(np.intp) * self.count + np.arange(self.count)

    def _sums(self, ends: np.ndarray) -> tuple[np.ndarray, float]:
        """Statistics that decide, and MACs, of rows that end there."""
        return np.array([column[ends].sum() for column in self.statistics]), float(self.macs[ends].sum())

    def _quality(self, sums: np.ndarray) -> np.ndarray:
        """The metric where the deciding statistics of all rows sum to ``(..., D)``."""
        every = np.empty((*sums.shape[:-1], len(self.rows.last)))
        every[...] = self.rows.last
        every[..., self.rows.deciding] = sums
        return self.metric.value(every)

    def _judged(self, sums: np.ndarray, macs: float) -> float:
        return macs / self.count if self._quality(sums) >= self.least else np.inf

    def _following(self, levels: np.ndarray) -> list[np.ndarray]:
        """Per stage the stage ``(n,)`` at which a row ends that comes to it."""
        ends = [np.full(self.count, self.last, dtype=np.int16)]  # small numbers: memory is what this takes
        for stage in range(self.last - 1, -1, -1):
            ends.append(np.where(self.rows.reached[stage] > levels[stage], np.int16(stage), ends[-1]))
        return ends[::-1]

    def round(self, levels: np.ndarray, held: int | None = None) -> tuple[float, np.ndarray]:
        """Set the level of each stage, from first to last, to its best value given the others; the end and its cost.

        Args:
            levels: ``(S - 1,)``.
            held: a stage whose level stays.
        """
        levels, following = levels.copy(), self._following(levels)
        coming, stayed = np.arange(self.count), self._sums(np.arange(0))
        for stage in range(self.last):
            reached = self.rows.reached[stage][coming]
            if stage != held:
                after = following[stage + 1][coming].astype(np.intp) * self.count + coming
                levels[stage] = self._best(reached, stage * self.count + coming, after, stayed, stage, levels[stage])
            stays = reached > levels[stage]
            sums, macs = self._sums(stage * self.count + coming[stays])
            stayed = stayed[0] + sums, stayed[1] + macs
            coming = coming[~stays]
        sums, macs = self._sums(self.last * self.count + coming)
        return self._judged(stayed[0] + sums, stayed[1] + macs), levels

    def _best(
        self,
        reached: np.ndarray,
        here: np.ndarray,
        after: np.ndarray,
        stayed: tuple[np.ndarray, float],
        stage: int,
        level: int,
    ) -> int:
        """Best level of one stage; the present one where none satisfies the constraint.

        Args:
            reached: of the rows that come to it, their counts of reached thresholds.
            here: their ends if they stay.
            after: their ends if they do not.
            stayed: sums of the rows that have stayed before.
            stage: which.
            level: the present one.
        """
        size = int(self.never[stage]) + 1
        if not len(here):
            return size - 1
        gained = []
        for column, before in zip(self.statistics, stayed[0], strict=True):
            otherwise = column[after]
            gained.append(before + otherwise.sum() + _sum_above(reached, column[here] - otherwise, size))
        quality = self._quality(np.stack(gained, axis=1) if gained else np.empty((size, 0)))
        spent = self.macs[after]
        costs = stayed[1] + spent.sum() + _sum_above(reached, self.macs[here] - spent, size)
        allowed = quality >= self.least
        if not allowed.any():
            return level
        best = np.flatnonzero(allowed & (costs <= costs[allowed].min() * (1 + 1e-12)))
        best = best[quality[best] >= quality[best].max()]
        # Levels that no coming row lies between are alike; those at an end reach as far as they can.
        return 0 if best[0] == 0 else int(best[-1] if best[-1] == size - 1 else best[len(best) // 2])


def _cost(end: tuple[float, np.ndarray]) -> float:
    return end[0]


def _sum_above(reached: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """For each level below ``size`` the sum of the values ``(M,)`` of the rows that stay under it."""
    counted = np.bincount(reached, weights=values, minlength=size + 1)
    return np.cumsum(counted[:0:-1])[::-1]
