"""Random routing as its expectation: where a coin decides, one draw says little about the coin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dial.stages.metrics.metrics import Metric
from dial.stages.table import StageTable

POINTS = 1001
DRAWS, DRAWN_ROWS = 25, 50_000


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


@dataclass(frozen=True, eq=False)
class RandomPath:
    """The points that random routing passes as its dial is turned up, each as the expectation over draws.

    Sums of statistics and costs are expectations; so is a metric that is linear in its sums, such as accuracy. F1 or
    MCC is that of the expected sums. Has what :class:`dial.tradeoff.paths.Path` has, as far as curves,
    choosers and intervals ask for it.

    Attributes:
        table: rows of one split.
    """

    table: StageTable
    quantiles: None = None

    def __len__(self) -> int:
        return POINTS

    @cached_property
    def dial(self) -> np.ndarray:
        """The threshold of all stages at each point, ``(P,)``: −inf, even steps between 0 and 1, +inf."""
        steps = np.linspace(0, 1, POINTS)
        return np.concatenate([[-np.inf], steps[1:-1], [np.inf]])

    @cached_property
    def chances(self) -> np.ndarray:
        """Of each stage at each point, ``(P, S)``."""
        return stop_chances(np.repeat(self.dial[:, None], len(self.table.stages) - 1, axis=1))

    @cached_property
    def macs(self) -> np.ndarray:
        """Mean cost at each point, ``(P,)`` MACs per row."""
        return self.chances @ self.table.macs.mean(axis=0)

    @property
    def early(self) -> np.ndarray:
        """Share of rows that stop before the last stage, ``(P,)``."""
        return 1 - self.chances[:, -1]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Expected sum over rows of ``values`` at the row's stage: ``(N, S, ...) -> (P, ...)``."""
        return np.tensordot(self.chances, values.sum(axis=0, dtype=np.float64), axes=1)

    def picked(self, values: np.ndarray, point: int) -> np.ndarray:
        """Expectation for every row of ``values`` at its stage: ``(N, S, ...) -> (N, ...)``."""
        return np.tensordot(values, self.chances[point], axes=(1, 0))

    def moments(self, statistics: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`dial.tradeoff.paths.Path.moments`."""
        grouped = np.zeros((int(units.max(initial=-1)) + 1, *statistics.shape[1:]))
        np.add.at(grouped, units, statistics)
        pairs = np.einsum("gsi,gtj->stij", grouped, grouped, optimize=True)
        squares = np.einsum("ps,pt,stij->pij", self.chances, self.chances, pairs, optimize=True)
        return squares, np.einsum("ps,sij->pij", self.chances, pairs[:, -1], optimize=True), pairs[-1, -1]


def mean_over_draws(table: StageTable, metric: Metric, chances: np.ndarray, seed: int = 0) -> float:
    """A metric that is no function of sums, averaged over draws: :data:`DRAWS`, fewer of many rows.

    Args:
        table: rows of one split.
        metric: any.
        chances: of each stage, ``(S,)`` or ``(N, S)``.
        seed: of the draws.
    """
    rng, rows = np.random.default_rng(seed), np.arange(len(table))
    passed = np.broadcast_to(np.cumsum(chances, axis=-1), table.macs.shape)[:, :-1]
    answers = table.statistics.get(metric.name, table.predictions)
    values = []
    for _ in range(int(np.clip(DRAWN_ROWS // max(len(rows), 1), 1, DRAWS))):
        stages = (rng.random((len(rows), 1)) >= passed).sum(axis=1)
        values.append(metric.evaluate(table.label, answers[rows, stages], table.task.classes))
    return float(np.mean(values))


class RandomNodes:
    """Random routing ready to be re-weighted, as :class:`dial.tradeoff.bootstrap.Nodes` is for a score.

    Args:
        path: of the split that is resampled.
        statistics: ``(N, S, K)``.
    """

    def __init__(self, path: RandomPath, statistics: np.ndarray) -> None:
        self.path, self.statistics = path, statistics

    def evaluate(self, metric: Metric, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quality and mean cost at every point, both ``(P, b)``, under weights ``(N, b)``."""
        columns = np.einsum("nsk,nb->skb", self.statistics, weights, optimize=True)
        sums = np.einsum("ps,skb->pbk", self.path.chances, columns, optimize=True)
        costs = self.path.chances @ (self.path.table.macs.T @ weights) / weights.sum(axis=0)
        return metric.value(sums), costs
