"""Scores of different stages on one scale: their quantiles among the calibration rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Quantiles:
    """One strictly increasing map from score to quantile for every stage before the last.

    Scores of different models are not comparable; the share of calibration rows below is. Between two calibration
    scores the map is linear, and beyond the outermost it goes on with the slope 1 / range, so that no two different
    scores of fresh rows fall together. At a calibration score it is the middle of the step of the empirical
    distribution function; a dial at ``u`` in (0, 1) sends about the share ``u`` of each stage's rows onwards.

    Attributes:
        values: for each stage the ``(K,)`` distinct calibration scores, ascending.
        levels: their quantiles ``(K,)``, in (0, 1), ascending.
    """

    values: tuple[np.ndarray, ...]
    levels: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, scores: np.ndarray) -> Quantiles:
        """Learn the maps from calibration scores ``(N, S)``; the last column is not read.

        Raises:
            ValueError: if there is no row, or a score is not finite.

        Example:
            >>> quantiles = Quantiles.fit(np.array([[3.0, 0], [1.0, 0], [2.0, 0], [2.0, 0]]))
            >>> quantiles.transform(np.array([[1.0, 0], [1.5, 0], [2.0, 0], [5.0, 0]]))[:, 0]
            array([0.125, 0.3125, 0.5, 1.875])
        """
        deciding = np.ascontiguousarray(scores[:, :-1].T, dtype=np.float64)
        if not deciding.shape[1] or not np.isfinite(deciding).all():
            raise ValueError(
                f"`scores` must be finite for at least one calibration row, but got shape {scores.shape}. Check the table."
            )
        values, levels = [], []
        for column in deciding:
            ordered = np.sort(column)
            ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1  # rows up to and with each value
            values.append(ordered[ends - 1])
            levels.append((ends + np.concatenate([[0], ends[:-1]])) / (2 * len(ordered)))
        return cls(tuple(values), tuple(levels))

    def transform(self, scores: np.ndarray) -> np.ndarray:
        """Return the quantiles of scores ``(N, S)``; the last column, which decides nothing, becomes 0."""
        result = np.zeros((scores.shape[1], scores.shape[0]))
        for stage, (values, levels) in enumerate(zip(self.values, self.levels, strict=True)):
            column = np.ascontiguousarray(scores[:, stage], dtype=np.float64)
            order = np.argsort(column)
            result[stage, order] = self._forward(column[order], values, levels)
        return result.T

    def thresholds(self, dial: float) -> np.ndarray:
        """Return the raw threshold ``(S - 1,)`` of every stage for a shared dial.

        A calibration row reaches its stage's threshold exactly if its quantile reaches the dial.
        """
        return np.array([self._backward(dial, *pair) for pair in zip(self.values, self.levels, strict=True)])

    @staticmethod
    def _forward(scores: np.ndarray, values: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Map ascending scores (np.interp is then a merge instead of a search)."""
        result = np.interp(scores, values, levels)
        scale = (values[-1] - values[0]) or 1.0
        low = int(np.searchsorted(scores, values[0], side="left"))
        high = int(np.searchsorted(scores, values[-1], side="right"))
        result[:low] += (scores[:low] - values[0]) / scale
        result[high:] += (scores[high:] - values[-1]) / scale
        return result

    @staticmethod
    def _backward(dial: float, values: np.ndarray, levels: np.ndarray) -> float:
        """Map a dial to a score between the calibration scores on its two sides."""
        scale = (values[-1] - values[0]) or 1.0
        above = int(np.searchsorted(levels, dial, side="left"))  # the first calibration score that is to stay
        if above == 0:
            return float(min(values[0] + (dial - levels[0]) * scale, values[0]))
        if above == len(levels):
            score = values[-1] + (dial - levels[-1]) * scale
            return float(max(score, np.nextafter(values[-1], np.inf)))
        low, high = values[above - 1], values[above]
        share = (dial - levels[above - 1]) / (levels[above] - levels[above - 1])
        score = low + share * (high - low)
        return float(score if low < score <= high else high)
