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
    rule = PerStage(chooser.rule.score)
    point = _known(chooser, target, rule)
    if point is None:
        thresholds = _searched(chooser, target, shared)
        point = chooser.at(thresholds, "expected", target, rule)
        stays = np.asfortranarray(chooser.rule.values(chooser.table)[:, :-1] >= thresholds)  # read stage by stage
        chooser.curve.along[PerStage.name, target] = point, stays
    least = target * float(chooser.quality[-1]) - TOLERANCE
    if point.promise.quality >= least and point.promise.macs <= shared.promise.macs:
        return point
    return chooser.at(shared.rule.thresholds, "expected", target, rule)


def _known(chooser: Chooser, target: float, rule: PerStage) -> OperatingPoint | None:
    """The point found before, or for another score that orders the rows alike: the same rows are to stay by this."""
    if (PerStage.name, target) not in chooser.curve.along:
        return None
    point, stays = chooser.curve.along[PerStage.name, target]
    if point.rule.score == rule.score:
        known: OperatingPoint = point
        return known
    thresholds = thresholds_between(chooser.rule.values(chooser.table)[:, :-1], stays)
    return None if thresholds is None else OperatingPoint(rule.at(thresholds), point.promise)


def thresholds_between(values: np.ndarray, stays: np.ndarray) -> np.ndarray | None:
    """Thresholds ``(S - 1,)`` that these rows reach at each stage and no others; None where there are none.

    Args:
        values: scores ``(N, S - 1)``.
        stays: ``(N, S - 1)``.

    Example:
        >>> thresholds_between(np.array([[0.1], [0.5], [0.9]]), np.array([[False], [True], [True]]))
        array([0.3])
    """
    found = []
    for column, stay in zip(values.T, stays.T, strict=True):
        below, above = np.where(stay, -np.inf, column).max(), np.where(stay, column, np.inf).min()
        if not below < above:
            return None
        found.append(below if below == -np.inf else above if above == np.inf else midway(np.array([below, above]))[1])
    return np.array(found)


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
        self.last, self.count = rows.columns.shape[1] - 1, rows.columns.shape[2]
        # A row that ends at a stage is one number: the stage's place and the row's behind each other.
        self.flat = rows.columns.reshape(len(rows.columns), -1)
        self.never = np.array([len(t) - 1 for t in rows.thresholds])
        self.super = rows.final.sum(axis=0)
        self.least = target * float(metric.value(self.super)) - TOLERANCE

    def search(self, start: np.ndarray) -> list[tuple[float, np.ndarray]]:
        """Where descents from several starts end: cost and levels ``(S - 1,)``, cheapest first."""
        places = []
        shares = np.linspace(0, 1, max(2, STARTS // len(self.never) + 1))
        for stage in range(len(self.never)):
            for level in np.unique(np.quantile(self.rows.reached[stage], shares, method="higher")) - 1:
                held = self.never.copy()
                held[stage] = level
                places.append(self.round(held, held=stage)[1:])
        places = sorted((place for place in places if np.isfinite(place[0])), key=_cost)
        return sorted((self.descend(levels, ROUNDS) for _, levels in [(0, start), *places[:DESCENTS]]), key=_cost)

    def mend(self, found: list[np.ndarray], start: np.ndarray) -> np.ndarray:
        """The cheapest levels near to those found on fewer rows.

        Args:
            found: levels ``(S - 1,)``, whose quality may be too low here.
            start: levels to go towards, of a point whose quality suffices; between the scores that were drawn they
                are rounded, so it may not quite, which the caller has to look at.
        """
        ends = [self.descend(levels, MENDED) for levels in _distinct(found)]
        if not np.isfinite(min(map(_cost, ends))):
            between = (np.ceil(found[0] + share * (start - found[0])).astype(int) for share in np.linspace(0, 1, STEPS))
            enough = next((levels for levels in between if np.isfinite(self.cost(levels))), start)
            ends = [self.descend(levels, MENDED) for levels in _distinct([enough, start])]
        return min(ends, key=_cost)[1]

    def descend(self, levels: np.ndarray, rounds: int) -> tuple[float, np.ndarray]:
        """Set stage after stage until a round, or the last one allowed, changes nothing; the end, its cost first."""
        for _ in range(rounds):
            cost, now, better = self.round(levels)
            if (np.isfinite(cost) and not now < cost) or np.array_equal(better, levels):
                return cost, levels
            levels = better
        return now, levels

    def cost(self, levels: np.ndarray) -> float:
        """Mean MACs where the constraint holds, else infinity."""
        return self._judged(self._sums(levels))

    def quality(self, levels: np.ndarray) -> float:
        """The metric."""
        return float(self._quality(self._sums(levels)))

    def _sums(self, levels: np.ndarray) -> np.ndarray:
        """Sums ``(D + 1,)`` of what decides and of costs over all rows."""
        return np.asarray(self._added(self._following(levels)[0], np.arange(self.count)).sum(axis=1))

    def _following(self, levels: np.ndarray) -> list[np.ndarray]:
        """Per stage the stage ``(N,)`` at which a row ends that comes to it."""
        ends = [np.full(self.count, self.last, dtype=np.int16)]  # small numbers: memory is what this takes
        for stage in range(self.last - 1, -1, -1):
            if levels[stage] == self.never[stage]:
                ends.append(ends[-1])
                continue
            stays = self.rows.reached[stage] > levels[stage]
            ends.append(ends[-1] + (stage - ends[-1]) * stays)  # a choice takes ten times as long: no one foresees it
        return ends[::-1]

    def _added(self, ends: np.ndarray | int, rows: np.ndarray) -> np.ndarray:
        """What rows ``(M,)`` that end at these stages add to the sums, ``(D + 1, M)``."""
        return self.flat.take(np.multiply(ends, self.count, dtype=np.intp) + rows, axis=1)

    def _quality(self, sums: np.ndarray) -> np.ndarray:
        """The metric ``(...)`` of sums ``(D + 1, ...)`` over all rows."""
        every = np.empty((len(self.super), *sums.shape[1:]))
        for k, total in enumerate(self.super):
            every[k] = total
        for k, total in zip(self.rows.deciding, sums, strict=False):
            every[k] = total
        return self.metric.value(np.moveaxis(every, 0, -1))

    def _judged(self, sums: np.ndarray) -> float:
        return float(sums[-1]) / self.count if self._quality(sums) >= self.least else np.inf

    def round(self, levels: np.ndarray, held: int | None = None) -> tuple[float, float, np.ndarray]:
        """Set the level of each stage, from first to last, to its best value given the others.

        Args:
            levels: ``(S - 1,)``.
            held: a stage whose level stays.

        Returns:
            The cost at these levels, that at the end, and the end.
        """
        following, better, rows = self._following(levels), levels.copy(), np.arange(self.count)
        sums = self._added(following[0], rows).sum(axis=1)
        cost = self._judged(sums)
        for stage in range(self.last):
            reached = self.rows.reached[stage].take(rows)
            if stage != held and not len(rows):
                better[stage] = self.never[stage]
            elif stage != held:
                won = self._added(stage, rows) - self._added(following[stage + 1].take(rows), rows)
                lost = _sums_below(reached, won, int(self.never[stage]) + 1)
                along = (sums + lost[:, levels[stage]])[:, None] - lost
                better[stage] = self._best(along, levels[stage])
                sums = along[:, better[stage]]
            rows = rows.take(np.flatnonzero(reached <= better[stage]))
        return cost, self._judged(sums), better

    def _best(self, sums: np.ndarray, level: int) -> int:
        """Best level of a stage by the sums ``(D + 1, L)`` at each; the present one if none meets the constraint."""
        quality = self._quality(sums)
        costs = np.where(quality >= self.least, sums[-1], np.inf)
        least = costs.min()
        if least == np.inf:
            return level
        best = np.flatnonzero(costs <= least * (1 + 1e-12))
        best = best[quality[best] >= quality[best].max()]
        # Levels that no coming row lies between are alike; those at an end reach as far as they can.
        return 0 if best[0] == 0 else int(best[-1] if best[-1] == len(costs) - 1 else best[len(best) // 2])


def _distinct(levels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each of them once, in order."""
    return list({each.tobytes(): each for each in levels}.values())


def _cost(end: tuple[float, np.ndarray]) -> float:
    return end[0]


def _sums_below(reached: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """For each level below ``size`` the sums of the values ``(D, M)`` of the rows that do not stay, ``(D, size)``."""
    places = reached.astype(np.intp)
    counted = np.array([np.bincount(places, weights=column, minlength=size)[:size] for column in values])
    return np.cumsum(counted, axis=1, out=counted)
