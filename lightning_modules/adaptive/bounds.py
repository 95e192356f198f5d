"""One-sided lower bounds that hold in small samples, and the rows that they would need."""

import math
from functools import cached_property

import numpy as np
from scipy.stats import norm

from lightning_modules.adaptive.metrics import Metric
from lightning_modules.adaptive.paths import Path

MANY_SUMS = 12  # above, second moments of all pairs of sums would not fit
GRID = 256


def lower_bound(margin: np.ndarray, variance: np.ndarray, loss: np.ndarray | float, confidence: float) -> np.ndarray:
    """Lower bound of a margin whose rare losses may not have been seen yet.

    The estimate is lowered by ``(z² + 2) / 3`` rows that the Super gets right and the cheaper point gets wrong, and
    one such
    row is added to the variance. With only losses this is the Cornish-Fisher upper limit of a Poisson mean: with
    none seen it
    allows for 2.5 of them at confidence 0.9 (the exact limit is 2.3), so that a point without a single observed
    difference does not count as proven.

    Args:
        margin: estimates ``(P,)`` of quality − target · Super.
        variance: their delta-method variances ``(P,)``.
        loss: what one more lost row takes from the margin, ``(P,)`` or a scalar, not negative.
        confidence: one-sided, above 0.5.

    Example:
        >>> lower_bound(np.array([0.01]), np.zeros(1), 1 / 200, confidence=0.9).round(4)  # 2 rows of slack: not enough
        array([-0.0025])
    """
    z = norm.ppf(confidence)
    return margin - (z**2 + 2) / 3 * loss - z * np.sqrt(variance + np.square(loss))


def rows_needed(margin: float, variance: float, loss: float, rows: int, confidence: float) -> int | None:
    """Smallest sample of the same kind in which :func:`lower_bound` reaches zero; None where no size would do.

    Args:
        margin: observed quality − target · Super.
        variance: its variance with ``rows`` rows.
        loss: what one more lost row takes from the margin with ``rows`` rows.
        rows: size of the sample.
        confidence: as for :func:`lower_bound`.
    """
    if margin <= 0:
        return None
    z, spread, unit = norm.ppf(confidence), variance * rows, loss * rows
    # In n rows: n·margin − shift ≥ z·sqrt(n·spread + unit²). Squared it is a quadratic in n; the larger root counts.
    shift = (z**2 + 2) / 3 * unit
    a, b, c = margin**2, -(2 * margin * shift + z**2 * spread), shift**2 - (z * unit) ** 2
    return math.ceil((-b + math.sqrt(max(b**2 - 4 * a * c, 0.0))) / (2 * a) - 1e-9)


def worst_losses(metric: Metric, labels: np.ndarray, classes: int) -> np.ndarray:
    """Changes of a metric's sums when a row turns from right to wrong, ``(M, K)``, one for each pair of classes.

    Args:
        metric: an additive metric of class predictions.
        labels: class indices ``(N,)``; only classes that occur can lose a row.
        classes: C.
    """
    label, wrong = (grid.ravel() for grid in np.meshgrid(np.arange(classes), np.arange(classes), indexing="ij"))
    present = (label != wrong) & np.isin(label, labels)
    label, wrong = label[present], wrong[present]
    return metric.statistics(label, wrong, classes) - metric.statistics(label, label, classes)


class Margins:
    """Quality − target · Super along a path, with delta-method variances from cumulative second moments.

    Both qualities come from the same rows, so what counts is the variance of their difference. With many sums (a
    confusion
    matrix of many classes) a grid of points, evenly spaced over the dial's points and so fixed before any label is
    seen, stands for all.

    Args:
        path: points of the dial on calibration rows.
        statistics: ``(N, S, K)``.
        metric: an additive metric.
    """

    def __init__(self, path: Path, statistics: np.ndarray, metric: Metric) -> None:
        self.path, self.statistics, self.metric = path, statistics, metric
        self.few = statistics.shape[2] <= MANY_SUMS
        count = len(path.applied)
        self.points = (
            np.arange(count) if self.few else np.unique(np.linspace(0, count - 1, GRID).round().astype(np.int64))
        )
        self.sums = path.sums(statistics)[self.points]
        self.quality = metric.value(self.sums)

    def at(self, target: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points tested ``(T,)``, and for each the margin, its variance and what one more lost row takes."""
        here, there = self.metric.gradient(self.sums), target * self.metric.gradient(self.sums[-1])
        rows = len(self.statistics)
        second = self._from_moments(here, there) if self.few else self._row_by_row(here, there)
        centre = (here * self.sums).sum(axis=-1) - there @ self.sums[-1]
        variance = np.maximum(second - centre**2 / rows, 0.0)
        return self.points, self.quality - target * self.quality[-1], variance, self._losses(here)

    def _from_moments(self, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        squares, crossed, fixed = self._moments
        own = np.einsum("pi,pij,pj->p", here, squares, here, optimize=True)
        return own - 2 * np.einsum("pi,pij,j->p", here, crossed, there, optimize=True) + there @ fixed @ there

    def _row_by_row(self, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        rows = np.arange(len(self.statistics))
        fixed = self.statistics[:, -1] @ there
        influences = (
            self.statistics[rows, self.path.stages(p)] @ g - fixed for p, g in zip(self.points, here, strict=True)
        )
        return np.array([np.square(influence).sum() for influence in influences])

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums of x xᵀ and x yᵀ along the path ``(P, K, K)`` and of y yᵀ ``(K, K)``; y are the Super's statistics."""
        x, y = self.statistics, self.statistics[:, -1]
        squares = self.path.sums(x[..., :, None] * x[..., None, :])
        crossed = self.path.sums(x[..., :, None] * y[:, None, None, :])
        return squares, crossed, y.T @ y

    def _losses(self, gradient: np.ndarray) -> np.ndarray:
        """What the worst single lost row can take from the quality, ``(T,)``."""
        table = self.path.table
        if table.label_names and self.metric.name not in table.statistics:
            changes = worst_losses(self.metric, table.label, len(table.label_names))
            return np.maximum(-(gradient @ changes.T).min(axis=1, initial=0), 0.0)
        changes = (self.statistics[:, :-1] - self.statistics[:, -1:]).reshape(-1, self.statistics.shape[-1])
        return np.full(len(gradient), max(0.0, -float((changes @ gradient[-1]).min(initial=0))))
