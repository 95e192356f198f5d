"""One threshold per stage, by coordinate descent from the best shared dial (for three stages or more)."""

from collections.abc import Iterator

import numpy as np

from lightning_modules.adaptive.calibration import Chooser, OperatingPoint
from lightning_modules.adaptive.metrics import Metric
from lightning_modules.adaptive.paths import midway
from lightning_modules.adaptive.rules import replay

ROUNDS = 20


def per_stage_thresholds(chooser: Chooser, target: float, kind: str = "expected") -> OperatingPoint:
    """Cheapest thresholds found whose quality is at least ``target`` times the Super's on the chooser's rows.

    Every stage's threshold in turn is set to its best value given the others, all its values tried at once, until none
    improves. Descent stops at corners of the constraint, so it starts from several places: the best shared dial, the best dial
    of each cascade with one stage left out or alone, and points on the way down from a stricter target. The cheapest end counts.

    Args:
        chooser: calibration rows and the score.
        target: share of the Super's quality.
        kind: recorded in the operating point.
    """
    problem = _Problem(chooser, target)
    best, cost = problem.start, problem.cost(problem.start)
    for start in problem.starts():
        found = problem.descend(start)
        if (reached := problem.cost(found)) < cost:
            best, cost = found, reached
    return chooser.at(best, kind, target, rule="per_stage")


class _Problem:
    """Cost and constraint of thresholds on one set of rows."""

    def __init__(self, chooser: Chooser, target: float) -> None:
        self.scores = chooser.table.scores[chooser.score]
        self.macs, self.statistics = chooser.table.macs, chooser.statistics
        self.metric: Metric = chooser.measured
        self.chooser, self.target = chooser, target
        self.least = target * float(chooser.quality[-1]) - 1e-12
        self.rows = np.arange(len(self.macs))
        self.start = np.array(chooser.expected(target).thresholds)

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
        closed = np.full(count, np.inf)
        for stage in range(count):
            yield self.sweep(closed, stage)  # this stage and the Super alone
            others = self.start.copy()
            others[stage] = np.inf
            if np.isfinite(self.cost(others)):
                yield others
        for share in (0.25, 0.5, 0.75):  # less than all slack spent on the shared dial leaves some for single stages
            stricter = np.array(self.chooser.expected(self.target + share * (1 - self.target)).thresholds)
            if np.isfinite(self.cost(stricter)):
                yield stricter
        for order in (range(count), range(count - 1, -1, -1)):  # every stage its part of the slack, first or last stage first
            thresholds = closed
            for step, stage in enumerate(order, start=1):
                quality = float(self.chooser.quality[-1])
                thresholds = self.sweep(thresholds, stage, least=quality - (quality - self.least) * step / count)
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

    def sweep(self, thresholds: np.ndarray, stage: int, least: float | None = None) -> np.ndarray:
        """Best value of one threshold given the others, over all distinct scores of the rows that get there."""
        otherwise = thresholds.copy()
        otherwise[stage] = np.inf
        onward = replay(self.scores, otherwise)
        here = np.flatnonzero(onward > stage)
        here = here[np.argsort(self.scores[here, stage], kind="stable")]
        score = self.scores[here, stage]
        fixed = self.statistics[self.rows, onward].sum(axis=0), self.macs[self.rows, onward].sum()
        # Rows stop here from the surest down: sums over suffixes of the sorted rows.
        gain = self.statistics[here, stage] - self.statistics[here, onward[here]]
        saving = self.macs[here, stage] - self.macs[here, onward[here]]
        distinct, first = np.unique(score, return_index=True)
        stopping = np.append(first, len(here))
        sums = fixed[0] + np.concatenate([np.cumsum(gain[::-1], axis=0)[::-1], np.zeros((1, gain.shape[1]))])[stopping]
        costs = fixed[1] + np.append(np.cumsum(saving[::-1])[::-1], 0.0)[stopping]
        quality = self.metric.value(sums)
        allowed = quality >= (self.least if least is None else least)
        if not allowed.any():
            return thresholds
        best = np.flatnonzero(allowed & (costs <= costs[allowed].min() * (1 + 1e-12)))
        result = thresholds.copy()
        result[stage] = midway(distinct)[best[quality[best].argmax()]] if len(here) else np.inf
        return result
