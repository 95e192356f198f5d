"""One threshold per stage, by coordinate descent from the best shared dial (for three stages or more)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from dial.stages.metrics.base import Metric
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.curve import midway
from dial.tradeoff.events import replay
from dial.tradeoff.point import OperatingPoint
from dial.tradeoff.threshold import Threshold

ROUNDS = 20
STARTS = 24  # in all, shared among the stages


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

    Its many thresholds are fitted to the very rows that they are measured on, so on fresh rows such a point keeps less
    than it seems to: it is exploratory, and nothing is promised of it.

    Args:
        chooser: calibration rows and the score.
        target: share of the Super's quality.
    """
    if chooser.nothing_to_keep:
        return chooser.expected(target)
    problem = _Problem(chooser, target)
    best, cost = problem.start, problem.cost(problem.start)
    for start in problem.starts():
        found = problem.descend(start)
        if (reached := problem.cost(found)) < cost:
            best, cost = found, reached
    rule = PerStage(chooser.rule.score)
    point, shared = (chooser.at(thresholds, "expected", target, rule) for thresholds in (best, problem.start))
    return shared if shared.promise.macs < point.promise.macs else point


class _Problem:
    """Cost and constraint of thresholds on one set of rows."""

    def __init__(self, chooser: Chooser, target: float) -> None:
        self.scores = chooser.rule.values(chooser.table)
        self.macs = chooser.table.deciding_by(chooser.rule.score).macs
        self.statistics = chooser.statistics
        self.metric: Metric = chooser.measured
        self.chooser, self.target = chooser, target
        self.least = target * float(chooser.quality[-1]) - 1e-12
        self.rows = np.arange(len(self.macs))
        self.orders = [np.argsort(self.scores[:, s], kind="stable") for s in range(self.scores.shape[1] - 1)]
        self.start = np.array(chooser.expected(target).rule.thresholds)

    def cost(self, thresholds: np.ndarray) -> float:
        """Mean MACs where the constraint holds, else infinity."""
        stages = replay(self.scores, thresholds)
        if self.metric.value(self.statistics[self.rows, stages].sum(axis=0)) < self.least:
            return np.inf
        return float(self.macs[self.rows, stages].mean())

    def starts(self) -> Iterator[np.ndarray]:
        """Thresholds to descend from; all satisfy the constraint."""
        yield self.start
        count = self.scores.shape[1] - 1
        levels = np.linspace(0, 1, max(2, STARTS // count + 1))
        for stage in range(count):
            others = [s for s in range(count) if s != stage]
            for value in np.unique(np.quantile(self.scores[:, stage], levels, method="higher")):
                for order in (others, others[::-1]) if count == 3 else (others,):
                    thresholds = np.full(count, np.inf)
                    thresholds[stage] = value
                    for other in order:
                        thresholds = self.sweep(thresholds, other)
                    if np.isfinite(self.cost(thresholds)):
                        yield thresholds

    def descend(self, thresholds: np.ndarray) -> np.ndarray:
        """Sweep stage after stage until a round changes nothing."""
        cost = self.cost(thresholds)
        for _ in range(ROUNDS):
            for stage in range(len(thresholds)):
                thresholds = self.sweep(thresholds, stage)
            if (now := self.cost(thresholds)) >= cost:
                break
            cost = now
        return thresholds

    def sweep(self, thresholds: np.ndarray, stage: int) -> np.ndarray:
        """Best value of one threshold given the others, over all distinct scores of the rows that get there.

        Where no value satisfies the constraint, the threshold stays as it is.
        """
        otherwise = thresholds.copy()
        otherwise[stage] = np.inf
        onward = replay(self.scores, otherwise)
        here = self.orders[stage][onward[self.orders[stage]] > stage]
        if not len(here):
            return otherwise
        score = self.scores[here, stage]
        # Rows stop here from the surest down: sums over suffixes of the sorted rows, at the first row of each score.
        first = np.append(np.flatnonzero(np.append(True, score[1:] != score[:-1])), len(here))
        gain = self.statistics[here, stage] - self.statistics[here, onward[here]]
        saving = self.macs[here, stage] - self.macs[here, onward[here]]
        sums = self.statistics[self.rows, onward].sum(axis=0) + _suffix_sums(gain)[first]
        costs = self.macs[self.rows, onward].sum() + _suffix_sums(saving)[first]
        quality = self.metric.value(sums)
        allowed = quality >= self.least
        if not allowed.any():
            return thresholds
        best = np.flatnonzero(allowed & (costs <= costs[allowed].min() * (1 + 1e-12)))
        otherwise[stage] = midway(score[first[:-1]])[best[quality[best].argmax()]]
        return otherwise


def _suffix_sums(values: np.ndarray) -> np.ndarray:
    """Sum of ``values[i:]`` for every i up to the length, ``(M, ...) -> (M + 1, ...)``."""
    return np.concatenate([np.cumsum(values[::-1], axis=0)[::-1], np.zeros((1, *values.shape[1:]))])
