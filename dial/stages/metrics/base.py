"""What a metric is: statistics of each example, the value of their sums, and its gradient."""

from abc import ABC, abstractmethod

import numpy as np


def beside(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return labels ``(N,)`` as ``(N, 1)`` where predictions are ``(N, S)``."""
    label = np.asarray(label)
    return label[:, None] if np.ndim(prediction) == label.ndim + 1 else label


def columns(*statistics: np.ndarray) -> np.ndarray:
    """Return ``K`` arrays ``(...)`` as ``(..., K)`` float64, each in one piece of memory: they are summed singly."""
    return np.moveaxis(np.stack(statistics).astype(np.float64, copy=False), 0, -1)


def divide(numerator: np.ndarray | float, denominator: np.ndarray) -> np.ndarray:
    """Divide, with 0 where the denominator is 0."""
    some = np.asarray(denominator) != 0
    if some.all():  # as mostly, and several times as fast
        return np.asarray(numerator / denominator)
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.zeros(shape), where=some)


class Metric(ABC):
    """A metric: statistics of each example, and the value of their sums.

    Attributes:
        name: as in :data:`METRICS`.
        additive: whether the value is a function of sums of :meth:`statistics`.
        task: name of the task that it is for.
        most_classes: how many classes there may be.
        grouped: whether it is of whole groups of rows, which label and prediction do not tell.
    """

    name: str
    additive: bool = True
    task: str = "classification"
    most_classes: float = float("inf")
    grouped: bool = False

    @abstractmethod
    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """Return what an example adds to the sums.

        Args:
            label: ``(N,)``.
            prediction: ``(N,)``, or ``(N, S)`` for all stages at once.
            classes: number of classes; by default as many as occur. Give it where sums of several calls are compared.

        Returns:
            ``(N, K)`` or ``(N, S, K)`` float64.
        """

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray:
        """Return the metric ``(...)`` of sums ``(..., K)``."""

    @abstractmethod
    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """Return the derivative of :meth:`value` by each of the sums, ``(..., K)``; 0 where the value is degenerate."""

    def evaluate(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> float:
        """Return the metric of labels ``(N,)`` and predictions ``(N,)``."""
        return float(self.value(self.statistics(label, prediction, classes).sum(axis=0)))


UNIT_RANGE = (0.0, 1.0)
"""The range of a statistic that declares none: exact match and F1 of an answer lie in it."""


class Mean(Metric):
    """Mean of a number per example that somebody computed already (``stat_<name>_<stage>`` in a table).

    Its statistics are the number itself and 1; give the number as the prediction.

    Args:
        name: of the statistic.
        range: the lowest and the highest that the number can be, whatever has been seen of it.
    """

    def __init__(self, name: str, range: tuple[float, float] = UNIT_RANGE) -> None:
        self.name, self.range = name, range

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`; ``label`` is not read."""
        values = np.asarray(prediction, dtype=np.float64)
        return columns(values, np.ones_like(values))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return divide(sums[..., 0], sums[..., 1])

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        total, count = sums[..., 0], sums[..., 1]
        return np.stack([divide(1.0, count), -divide(total, count**2)], axis=-1)
