"""Scores of a stage table as counts of the thresholds that they reach, for searches that try many thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dial.stages.scores import random_score
from dial.tradeoff.curve import midway

SEED = 4096
"""Of the hash that draws rows; the number alone says nothing."""


@dataclass(frozen=True, eq=False)
class Levels:
    """At each stage before the last the candidate thresholds in ascending order, numbered by their *level*.

    Arrays lie stage by stage, as a search reads a stage of many rows at a time.

    Attributes:
        values: per stage the distinct scores of the drawn rows, ascending.
        thresholds: per stage −inf, the midpoints between neighbouring values, and +inf.
        reached: ``(S - 1, N)``, how many of the stage's thresholds a row reaches: it stays under the threshold at a
            level if that is below the count.
        drawn: ``(n,)``, the rows whose scores are candidates, in order.
        deciding: ``(D,)``, which of the metric's ``K`` sums depend on where rows end; a count of rows does not.
        columns: ``(D + 1, S, N)``, what a row that ends at a stage adds to these sums, and what it costs.
        final: ``(N, K)``, what it adds to all sums at the last stage.
    """

    values: list[np.ndarray]
    thresholds: list[np.ndarray]
    reached: np.ndarray
    drawn: np.ndarray
    deciding: list[int]
    columns: np.ndarray
    final: np.ndarray

    @classmethod
    def of(
        cls, scores: np.ndarray, sample_id: np.ndarray, macs: np.ndarray, statistics: np.ndarray, most: int
    ) -> Levels:
        """Levels between the scores of at most ``most`` rows, which a hash of their ids draws: no label is looked at.

        Args:
            scores: ``(N, S)``; the last column is not read.
            sample_id: ``(N,)``.
            macs: ``(N, S)``.
            statistics: ``(N, S, K)``.
            most: rows.

        Example:
            >>> nothing = np.zeros((3, 2))
            >>> scores = np.array([[0.2, 0.0], [0.6, 0.0], [0.2, 0.0]])
            >>> levels = Levels.of(scores, np.arange(3), nothing, nothing[:, :, None], most=3)
            >>> levels.thresholds[0], levels.reached
            (array([-inf,  0.4,  inf]), array([[1, 2, 1]], dtype=uint8))
        """
        drawn = np.arange(len(scores))
        if len(scores) > most:
            drawn = np.sort(np.argpartition(random_score(sample_id, 0, SEED), most)[:most])
        by_stage = np.ascontiguousarray(scores[:, :-1].T)
        values = [np.unique(column[drawn]) for column in by_stage]
        thresholds = [midway(value) for value in values]
        reached = [np.searchsorted(t, column, side="right") for t, column in zip(thresholds, by_stage, strict=True)]
        counts = np.array(reached, dtype=np.min_scalar_type(len(drawn) + 1))
        sums = np.moveaxis(statistics, -1, 0)
        deciding = [k for k, column in enumerate(sums) if (column != column[:, -1:]).any()]
        columns = np.empty((len(deciding) + 1, scores.shape[1], len(scores)))
        for column, values_of_rows in zip(columns, [*(sums[k] for k in deciding), macs], strict=True):
            column[...] = values_of_rows.T
        return cls(values, thresholds, counts, drawn, deciding, columns, statistics[:, -1])

    @cached_property
    def of_drawn(self) -> Levels:
        """The same levels on the drawn rows alone."""
        rows = self.drawn
        if len(rows) == len(self.final):
            return self
        reached, columns = (values.take(rows, axis=-1) for values in (self.reached, self.columns))
        parts = reached, np.arange(len(rows)), self.deciding, columns, self.final[rows]
        return Levels(self.values, self.thresholds, *parts)

    def at(self, thresholds: Sequence[float]) -> np.ndarray:
        """The levels ``(S - 1,)`` at which the drawn rows stay as they do under these thresholds."""
        return np.array([np.searchsorted(v, t) for v, t in zip(self.values, thresholds, strict=True)])
