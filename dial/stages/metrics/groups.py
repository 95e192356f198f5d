"""Metrics of whole groups of rows, such as the questions of MultiRC, whose answers are rows."""

import numpy as np

from dial.stages.metrics.base import Metric, beside


class GroupAccuracy(Metric):
    """Share of groups all of whose rows are right: MultiRC's exact match over questions.

    No sum over rows gives it, as one wrong row spoils the others of its group; curves count the wrong rows of every
    group as rows move, and are exact.

    Args:
        units: ``(N,)`` from 0, which group each row belongs to; None where nobody knows, and nothing can be evaluated.
    """

    name = "group_accuracy"
    additive, grouped = False, True

    def __init__(self, units: np.ndarray | None = None) -> None:
        self.units = units

    def wrong(self, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Whether answers ``(N,)`` or ``(N, S)`` are wrong."""
        return np.asarray(beside(label, prediction) != prediction)

    def evaluate(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> float:
        """See :class:`Metric`.

        Example:
            >>> GroupAccuracy(np.array([0, 0, 1])).evaluate(np.array([1, 0, 1]), np.array([1, 1, 1]))
            0.5
        """
        if self.units is None:
            raise TypeError("Accuracy over groups needs the groups of the rows.")
        wrong = np.bincount(self.units, weights=self.wrong(label, prediction))
        return float((wrong[np.unique(self.units)] == 0).mean()) if len(wrong) else 0.0

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """Not available."""
        raise TypeError("Accuracy over groups is not a function of sums over rows; use `evaluate`.")

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Not available."""
        raise TypeError("Accuracy over groups is not a function of sums over rows; use `evaluate`.")

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """Not available."""
        raise TypeError("Accuracy over groups is not a function of sums over rows; use `evaluate`.")
