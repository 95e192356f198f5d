"""One-sided lower bounds that hold in small samples, and the rows that they would need."""

import math
from functools import cached_property

import numpy as np
from scipy.special import ndtri, stdtrit

from dial.stages.metrics.base import Mean, Metric, divide
from dial.stages.metrics.texts import TextMetric
from dial.stages.table import StageTable
from dial.tradeoff.bootstrap import MANY_POINTS, Interval, percentile_interval
from dial.tradeoff.curve import Curve
from dial.tradeoff.taken import Taken, row_statistics, units_of

MANY_SUMS = 12  # above, second moments of all pairs of sums would not fit
GRID = 256
AT_ONCE = 2**20  # losses of texts that are in memory together


def lower_bound(
    margin: np.ndarray,
    variance: np.ndarray,
    loss: np.ndarray | float,
    confidence: float,
    units: int | None = None,
) -> np.ndarray:
    """Lower bound of a margin whose rare losses may not have been seen yet.

    The estimate is lowered by ``(z² + 2) / 3`` rows that the Super gets right and the cheaper point gets wrong, and one
    such row is added to the variance. With only losses this is the Cornish-Fisher upper limit of a Poisson mean: with
    none seen it allows for 2.5 of them at confidence 0.9 (the exact limit is 2.3), so that a point without a single
    observed difference does not count as proven.

    Args:
        margin: estimates ``(P,)`` of quality − target · Super.
        variance: their delta-method variances ``(P,)``.
        loss: what one more lost row takes from the margin, ``(P,)`` or a scalar, not negative.
        confidence: one-sided, above 0.5.
        units: how many groups the variance was estimated from, where rows come in groups: few groups know their own
            variance badly, which Student's distribution allows for. None: as many as rows, where that is nothing.

    Example:
        >>> lower_bound(np.array([0.01]), np.zeros(1), 1 / 200, confidence=0.9).round(4)  # 2 rows of slack: not enough
        array([-0.0025])
    """
    return margin - allowance(variance, loss, confidence, units)


def allowance(
    variance: np.ndarray | float, loss: np.ndarray | float, confidence: float, units: int | None = None
) -> np.ndarray:
    """How far below its estimate the margin may be; arguments as for :func:`lower_bound`."""
    z = ndtri(confidence)
    if units is not None:
        z, variance = stdtrit(max(units - 1, 1), confidence), variance * units / max(units - 1, 1)
    distance: np.ndarray = (z**2 + 2) / 3 * loss + z * np.sqrt(variance + np.square(loss))
    return distance


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
    z, spread, unit = ndtri(confidence), variance * rows, loss * rows
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
    known = labels[labels >= 0]  # an answer of the Super that cannot be read is of no class
    present = (label != wrong) & (np.bincount(known, minlength=classes) > 0)[label]
    label, wrong = label[present], wrong[present]
    return metric.statistics(label, wrong, classes) - metric.statistics(label, label, classes)


def clump_of(units: np.ndarray) -> float:
    """Rows that are lost together where one is: the mean size of the group of a random row; 1 without groups.

    Of groups of unequal size the larger ones hold more of the rows, so sizes are weighted by themselves.

    Args:
        units: ``(N,)`` from :func:`~dial.tradeoff.taken.units_of`.

    Example:
        >>> clump_of(np.array([0, 1, 2])), clump_of(np.array([0, 0, 0, 1]))
        (1.0, 2.5)
    """
    sizes = np.bincount(units)
    return float((sizes**2).sum() / max(sizes.sum(), 1))


def lost_row(table: StageTable, metric: Metric, gradient: np.ndarray) -> np.ndarray:
    """What the worst single lost row can take from a metric, whether or not one has been seen, ``(T,)``.

    A lost row of classes turns from right to wrong; a statistic falls from the upper to the lower end of the range
    that it declares; a number moves from the Super's answer to the lowest or highest that occurs anywhere (what that
    takes is stated for the last of the points). A lost text loses all that matches; as rows weigh unequally there, the
    ratio of the third moment of their losses to the second stands for one of them, which is what the skewness that
    :func:`lower_bound` allows for depends on.

    Args:
        table: the rows.
        metric: an additive metric.
        gradient: of the metric by its sums ``(T, K)``, at the points in question.
    """
    if isinstance(metric, Mean) and metric.name in table.statistics:
        low, high = metric.range
        return (high - low) * np.abs(gradient[:, 0])
    if isinstance(metric, TextMetric):
        return _lost_text(row_statistics(table, metric), metric, gradient)
    if table.task.exact:
        changes = worst_losses(metric, table.label, len(table.label_names))
        return np.maximum(-(gradient @ changes.T).min(axis=1, initial=0.0), 0.0)
    low, high = (limit([limit(table.label), limit(table.predictions)]) for limit in (np.min, np.max))
    # In one call with the Super's own, so that all are counted from one origin.
    ends = [np.full(len(table), low), np.full(len(table), high), table.predictions[:, -1]]
    moved = metric.statistics(table.label, np.stack(ends, axis=1))
    changes = (moved[:, :2] - moved[:, 2:]).reshape(-1, moved.shape[-1])
    return np.full(len(gradient), max(0.0, -float((changes @ gradient[-1]).min(initial=0.0))))


def _lost_text(statistics: np.ndarray, metric: TextMetric, gradient: np.ndarray) -> np.ndarray:
    """What a lost text takes at each of the points ``(T,)``."""
    change = metric.worst(statistics) - statistics[:, -1]
    size = max(1, AT_ONCE // max(change[..., 0].size, 1))
    ratios = []
    for start in range(0, len(gradient), size):  # all losses at once would be rows times points
        losses = np.maximum(-(change @ gradient[start : start + size].T).min(axis=0), 0.0)
        ratios.append(divide((losses**3).sum(axis=0), (losses**2).sum(axis=0)))
    return np.concatenate(ratios) if ratios else np.zeros(0)


def kept_interval(
    table: StageTable, metric: Metric, taken: Taken, resampled: np.ndarray, confidence: float = 0.95
) -> Interval | None:
    """Interval of the share of the Super's quality that a decision keeps, which never rests on losses seen alone.

    The ends are the bootstrap's. Where no row, or hardly any, was seen to be lost, resamples show none either, and the
    interval would be a point; so the lower end is at most :func:`lower_bound`'s.

    Args:
        table: rows of one split.
        metric: an additive metric.
        taken: what the decision does with them.
        resampled: shares kept on resamples ``(B,)``.
        confidence: two-sided.
    """
    ends = percentile_interval(resampled, confidence)
    if ends is None:
        return None
    if taken.stages is not None and (taken.stages == len(table.stages) - 1).all():
        return ends  # the Super's own answers cannot be lost
    statistics = row_statistics(table, metric)
    own, best = taken.pick(statistics), statistics[:, -1]
    quality, super_quality = metric.value(own.sum(axis=0)), metric.value(best.sum(axis=0))
    kept = quality / super_quality
    here, there = metric.gradient(own.sum(axis=0)), metric.gradient(best.sum(axis=0))
    influence = (own @ here - kept * (best @ there)) / super_quality
    loss = lost_row(table, metric, here[None])[0] / super_quality
    groups: int | None = None
    if table.group is not None:
        units = units_of(table)
        influence, loss = np.bincount(units, weights=influence), loss * clump_of(units)
        groups = len(influence)
    lowest = kept - allowance(np.square(influence).sum(), loss, (1 + confidence) / 2, groups)
    return min(ends[0], float(lowest)), ends[1]


class Margins:
    """Quality − target · Super along a curve, with delta-method variances from cumulative second moments.

    Both qualities come from the same rows, so what counts is the variance of their difference. With many sums (a
    confusion matrix of many classes), or very many points, a grid of points, evenly spaced over the dial's points and
    so fixed before any label is seen, stands for all.

    Args:
        curve: of calibration rows.
        statistics: ``(N, S, K)``.
        metric: an additive metric.
    """

    def __init__(self, curve: Curve, statistics: np.ndarray, metric: Metric) -> None:
        self.statistics, self.metric = statistics, metric
        self.units = units_of(curve.table)
        self.groups: int | None = None
        self.clump = 1.0
        if curve.table.group is not None:
            self.groups, self.clump = int(self.units.max()) + 1, clump_of(self.units)
        self.few = statistics.shape[2] <= MANY_SUMS
        count = len(curve)
        grid = count if count <= MANY_POINTS else MANY_POINTS // 4
        grid = grid if self.few else min(grid, GRID)
        self.points = np.unique(np.linspace(0, count - 1, grid).round().astype(np.int64))
        self.curve = curve.take(self.points)  # a curve that held what holds it would outlive its use
        self.early = curve.early[self.points]
        self.sums = curve.sums(statistics)[self.points]
        self.quality = metric.value(self.sums)

    def at(self, target: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points tested ``(T,)``, and for each the margin, its variance and what one more lost row takes.

        Rows of one group are summed before anything is squared, and are lost together.
        """
        here, there = self.metric.gradient(self.sums), target * self.metric.gradient(self.sums[-1])
        second = self._from_moments(here, there) if self.few else self._unit_by_unit(here, there)
        centre = (here * self.sums).sum(axis=-1) - there @ self.sums[-1]
        variance = np.maximum(second - centre**2 / (self.groups or len(self.statistics)), 0.0)
        loss = lost_row(self.curve.table, self.metric, here) * self.clump
        return self.points, self.quality - target * self.quality[-1], variance, loss

    def _from_moments(self, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        squares, crossed, fixed = self._moments
        own = np.einsum("pi,pij,pj->p", here, squares, here, optimize=True)
        return own - 2 * np.einsum("pi,pij,j->p", here, crossed, there, optimize=True) + there @ fixed @ there

    def _unit_by_unit(self, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        fixed = self.statistics[:, -1] @ there
        influences = (
            np.bincount(self.units, weights=self.curve.picked(self.statistics, point) @ g - fixed)
            for point, g in enumerate(here)
        )
        return np.array([np.square(influence).sum() for influence in influences])

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.curve.moments(self.statistics, self.units)
