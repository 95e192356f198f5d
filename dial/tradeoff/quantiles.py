"""Scores of different stages on one scale: their quantiles among the calibration rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dial.tradeoff.ordering import ascending


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
            array([0.125 , 0.3125, 0.5   , 1.875 ])
        """
        return cls.fit_transform(scores)[0]

    @classmethod
    def fit_transform(cls, scores: np.ndarray) -> tuple[Quantiles, np.ndarray]:
        """Return :meth:`fit` and :meth:`transform` of the same scores, sorted only once."""
        if not len(scores) or not np.isfinite(scores[:, :-1]).all():
            raise ValueError(
                "`scores` must be finite for at least one calibration row, but got "
                f"{'a score that is not' if len(scores) else 'none'}. Check the logits and the split."
            )
        result = np.zeros(scores.shape[::-1])
        values, levels = [], []
        for stage in range(scores.shape[1] - 1):
            column = np.ascontiguousarray(scores[:, stage], dtype=np.float64)
            order = ascending(column)
            ordered = column[order]
            last = np.append(ordered[1:] != ordered[:-1], True)  # of the rows with one value
            ends = np.flatnonzero(last) + 1
            counts = np.diff(ends, prepend=0)
            values.append(ordered[last])
            levels.append((2 * ends - counts) / (2 * len(ordered)))
            result[stage, order] = np.repeat(levels[-1], counts)
        return cls(tuple(values), tuple(levels)), result.T

    def transform(self, scores: np.ndarray) -> np.ndarray:
        """Return the quantiles of scores ``(N, S)``; the last column, which decides nothing, becomes 0."""
        result = np.zeros(scores.shape[::-1])
        for stage, (values, levels) in enumerate(zip(self.values, self.levels, strict=True)):
            column = np.ascontiguousarray(scores[:, stage], dtype=np.float64)
            order = ascending(column)
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
