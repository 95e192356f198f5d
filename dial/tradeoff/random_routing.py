"""Random routing as its expectation: where a coin decides, one draw says little about the coin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from dial.stages.metrics.base import Metric
from dial.stages.table import StageTable
from dial.tradeoff.curve import Curve, Reweighted
from dial.tradeoff.taken import mean_over_draws, summed

POINTS = 1001


def stop_chances(thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Chance ``(..., S)`` that a row stops at each stage, from the thresholds ``(..., S - 1)`` of a uniform score.

    A row stays where a number drawn from [0, 1), anew at every stage, reaches the threshold.

    Example:
        >>> stop_chances([0.25, 0.5])
        array([0.75 , 0.125, 0.125])
    """
    going_on = np.clip(np.asarray(thresholds, dtype=np.float64), 0.0, 1.0)
    reached = np.cumprod(going_on, axis=-1)
    ones = np.ones((*going_on.shape[:-1], 1))
    return np.concatenate([ones, reached], axis=-1) * np.concatenate([1 - going_on, ones], axis=-1)


class RandomCurve(Curve):
    """The points that random routing passes as its dial is turned up, each as the expectation over draws.

    Sums of statistics and costs are expectations; so is a metric that is linear in its sums, such as accuracy. F1 or
    MCC is that of the expected sums. The dial is the threshold of all stages.
    """

    @classmethod
    def of(cls, table: StageTable, rule: str, score: str) -> RandomCurve:
        """Points in even steps.

        Args:
            table: rows of one split.
            rule: name for the curve.
            score: name for the curve.
        """
        dial = np.concatenate([[-np.inf], np.linspace(0, 1, POINTS)[1:-1], [np.inf]])
        return cls(table=table, rule=rule, score=score, dial=dial)

    @cached_property
    def shares(self) -> np.ndarray:
        """The chance of each stage at each point, ``(P, S)``."""
        return stop_chances(np.repeat(self.dial[:, None], len(self.table.stages) - 1, axis=1))

    @property
    def macs(self) -> np.ndarray:
        """Mean MACs per row at each point, ``(P,)``."""
        macs: np.ndarray = self.kept("macs", lambda: self.shares @ self.table.macs.mean(axis=0))
        return macs

    @property
    def early(self) -> np.ndarray:
        """Share of rows that stop before the last stage, ``(P,)``."""
        return 1 - self.shares[:, -1]

    @property
    def fingerprint(self) -> bytes:
        """The same for all: a coin does not look at the rows."""
        return b"random"

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Expected sum over rows of ``values`` at the row's stage: ``(N, S, ...) -> (P, ...)``."""
        return np.tensordot(self.shares, values.sum(axis=0, dtype=np.float64), axes=1)

    def picked(self, values: np.ndarray, point: int) -> np.ndarray:
        """Expectation for every row of ``values`` at its stage: ``(N, S, ...) -> (N, ...)``."""
        return np.tensordot(values, self.shares[point], axes=(1, 0))

    def evaluated(self, metric: Metric, points: np.ndarray) -> Iterator[float]:
        """A metric that is no function of sums, averaged over draws."""
        return (mean_over_draws(self.table, metric, self.shares[point]) for point in points)

    def moments(self, statistics: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`dial.tradeoff.curve.Curve.moments`."""
        grouped = summed(statistics, units)
        pairs = np.einsum("gsi,gtj->stij", grouped, grouped, optimize=True)
        squares = np.einsum("ps,pt,stij->pij", self.shares, self.shares, pairs, optimize=True)
        return squares, np.einsum("ps,sij->pij", self.shares, pairs[:, -1], optimize=True), pairs[-1, -1]

    def reweighted(self, statistics: np.ndarray, units: np.ndarray, points: np.ndarray | None = None) -> Reweighted:
        """See :meth:`dial.tradeoff.curve.Curve.reweighted`; by default all points, of which there are few."""
        shares = self.shares if points is None else self.shares[points]
        grouped, macs, sizes = summed(statistics, units), summed(self.table.macs, units), np.bincount(units)

        def evaluate(metric: Metric, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            columns = np.einsum("nsk,nb->skb", grouped, weights, optimize=True)
            sums = np.einsum("ps,skb->pbk", shares, columns, optimize=True)
            return metric.value(sums), shares @ (macs.T @ weights) / (sizes @ weights)

        return evaluate
