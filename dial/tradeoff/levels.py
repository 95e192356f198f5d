"""Scores of a stage table as counts of the thresholds that they reach, for searches that try many thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dial.stages.scores import random_score
from dial.tradeoff.curve import midway

SEED = 4096
"""Of the hash that draws rows; the number alone says nothing."""


@dataclass(frozen=True, eq=False)
class Levels:
    """At each stage before the last the candidate thresholds in ascending order, numbered by their *level*.

    Attributes:
        values: per stage the distinct scores of the drawn rows, ascending.
        thresholds: per stage −inf, the midpoints between neighbouring values, and +inf.
        reached: ``(S - 1, N)``, how many of the stage's thresholds a row reaches: it stays under the threshold at a
            level if that is below the count.
        drawn: ``(n,)``, the rows whose scores are candidates, in order.
    """

    values: list[np.ndarray]
    thresholds: list[np.ndarray]
    reached: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, sample_id: np.ndarray, most: int) -> Levels:
        """Levels between the scores of at most ``most`` rows, which a hash of their ids draws: no label is looked at.

        Args:
            scores: ``(N, S)``; the last column is not read.
            sample_id: ``(N,)``.
            most: rows.

        Example:
            >>> levels = Levels.of(np.array([[0.2, 0.0], [0.6, 0.0], [0.2, 0.0]]), np.arange(3), most=3)
            >>> levels.thresholds[0], levels.reached
            (array([-inf,  0.4,  inf]), array([[1, 2, 1]]))
        """
        drawn = np.arange(len(scores))
        if len(scores) > most:
            drawn = np.sort(np.argpartition(random_score(sample_id, 0, SEED), most)[:most])
        columns = scores[:, :-1].T
        values = [np.unique(column[drawn]) for column in columns]
        thresholds = [midway(value) for value in values]
        reached = [np.searchsorted(t, column, side="right") for t, column in zip(thresholds, columns, strict=True)]
        return cls(values, thresholds, np.array(reached), drawn)

    def at(self, thresholds: Sequence[float]) -> np.ndarray:
        """The levels ``(S - 1,)`` at which the drawn rows stay as they do under these thresholds."""
        return np.array([np.searchsorted(v, t) for v, t in zip(self.values, thresholds, strict=True)])
