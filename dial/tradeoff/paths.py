"""Sums of a metric's statistics and of the costs at every point of a rule's dial."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dial.stages.metrics.metrics import METRICS, Mean, Metric
from dial.stages.table import StageTable
from dial.tradeoff.curve import events_of, is_random, midway
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.random_routing import RandomPath, mean_over_draws
from dial.tradeoff.rules import Events
from dial.tradeoff.taken import Taken


def metric_of(table: StageTable, name: str | None = None) -> Metric:
    """A metric of this table: a column of its own statistics, or one by name (default: the table's first)."""
    name = table.metrics[0] if name is None else name
    return Mean(name, table.range_of(name)) if name in table.statistics else METRICS[name]


def row_statistics(table: StageTable, metric: Metric) -> np.ndarray:
    """Statistics of every row at every stage, ``(N, S, K)``.

    Raises:
        ValueError: the metric is not additive, so there are none.
    """
    if not metric.additive:
        raise ValueError(f"`metrics` must start with an additive metric, but {metric.name} is not; put another first.")
    return table.metric_statistics(metric.name)[1]


def quality_at(table: StageTable, name: str, stages: np.ndarray) -> float:
    """A metric when every row stops at its stage ``(N,)``; any metric, additive or not."""
    answers = table.statistics.get(name, table.predictions)[np.arange(len(stages)), stages]
    return metric_of(table, name).evaluate(table.label, answers, table.task.classes)


def quality_of(taken: Taken, name: str | None = None) -> float:
    """A metric of a decision (default: the table's first).

    Where a coin decides it is that of the expected sums; a metric that has none is averaged over draws.
    """
    metric = metric_of(taken.table, name)
    if taken.stages is not None:
        return quality_at(taken.table, metric.name, taken.stages)
    assert taken.chances is not None
    if not metric.additive:
        return mean_over_draws(taken.table, metric, taken.chances)
    return float(metric.value(taken.pick(row_statistics(taken.table, metric)).sum(axis=0)))


def units_of(table: StageTable) -> np.ndarray:
    """Which rows belong together, ``(N,)`` from 0: those of one group, or each row by itself."""
    if table.group is None:
        return np.arange(len(table))
    units: np.ndarray = np.unique(table.group, return_inverse=True)[1]
    return units


@dataclass(frozen=True)
class Path:
    """The points that a rule passes as its dial is turned up: from each row's first stage to the Super.

    Attributes:
        table: the rows.
        events: changes of stage, sorted by dial.
        quantiles: maps scores of different stages to one dial; None where the dial is the score itself.
    """

    table: StageTable
    events: Events
    quantiles: Quantiles | None = None

    @classmethod
    def of(
        cls, table: StageTable, score: str, rule: str = "threshold", quantiles: Quantiles | None = None
    ) -> Path | RandomPath:
        """Build the path of a score under a rule; that of random routing is its expectation.

        Args:
            table: rows of one split.
            score: name of a score in the table; ignored by the rules patience and oracle.
            rule: one of :data:`dial.tradeoff.curve.RULES`.
            quantiles: a fit on other rows; by default, and only with more than two stages, fitted on these.

        Raises:
            ValueError: the rule is unknown, or the table does not hold the score.
        """
        if is_random(score, rule):
            return RandomPath(table)
        return cls(table, *events_of(table, score, rule, quantiles))

    def __len__(self) -> int:
        return len(self.applied)

    @cached_property
    def distinct(self) -> np.ndarray:
        """Dial values at which something happens, ``(P - 1,)``, increasing."""
        return np.unique(self.events.dial)

    @cached_property
    def dial(self) -> np.ndarray:
        """A dial for each point, ``(P,)``."""
        return midway(self.distinct) if len(self.distinct) else np.array([-np.inf])

    @cached_property
    def applied(self) -> np.ndarray:
        """How many events have happened at each point, ``(P,)``."""
        return np.concatenate([[0], np.searchsorted(self.events.dial, self.distinct, side="right")])

    @cached_property
    def macs(self) -> np.ndarray:
        """Mean cost at each point, ``(P,)`` MACs per row."""
        return self.sums(self.table.macs) / len(self.table.label)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over rows of ``values`` at the row's stage: ``(N, S, ...) -> (P, ...)``."""
        events = self.events
        total = values[np.arange(len(values)), events.start].sum(axis=0, dtype=np.float64)
        change = values[events.row, events.after] - values[events.row, events.before]
        running = np.cumsum(change, axis=0, dtype=np.float64)
        return total + np.concatenate([np.zeros((1, *running.shape[1:])), running])[self.applied]

    @cached_property
    def early(self) -> np.ndarray:
        """Share of rows that stop before the last stage at each point, ``(P,)``."""
        before_last = np.ones(self.table.macs.shape)
        before_last[:, -1] = 0
        return self.sums(before_last) / max(len(before_last), 1)

    def stages(self, point: int) -> np.ndarray:
        """Stage of each row at a point, ``(N,)``."""
        return self.events.stages(self.dial[point])

    def picked(self, values: np.ndarray, point: int) -> np.ndarray:
        """``values`` of every row at its stage: ``(N, S, ...) -> (N, ...)``."""
        return values[np.arange(len(values)), self.stages(point)]

    def moments(self, statistics: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Second moments of sums over units, along the path.

        Args:
            statistics: ``(N, S, K)``.
            units: ``(N,)`` from :func:`units_of`; rows of one unit are summed before anything is squared.

        Returns:
            Sums over units of x xᵀ and of x yᵀ at every point, ``(P, K, K)``, and of y yᵀ, ``(K, K)``; x are a unit's
            sums at the point, y those at the last stage.
        """
        events, rows = self.events, np.arange(len(statistics))
        count = int(units.max(initial=-1)) + 1
        y = np.zeros((count, statistics.shape[2]))
        np.add.at(y, units, statistics[:, -1])
        start = np.zeros_like(y)
        np.add.at(start, units, statistics[rows, events.start])
        unit = units[events.row]
        change = statistics[events.row, events.after] - statistics[events.row, events.before]
        before = start[unit] + _earlier_changes(change, unit)
        step = change[:, :, None] * before[:, None, :]
        squares = np.cumsum(step + step.transpose(0, 2, 1) + change[:, :, None] * change[:, None, :], axis=0)
        crossed = np.cumsum(change[:, :, None] * y[unit][:, None, :], axis=0)
        return self._along(start.T @ start, squares), self._along(start.T @ y, crossed), y.T @ y

    def _along(self, first: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Totals at every point from the first and the running sums over events."""
        return first + np.concatenate([np.zeros((1, *first.shape)), running])[self.applied]


def _earlier_changes(change: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """For every event the sum of the earlier changes ``(E, K)`` of its unit ``(E,)``, ``(E, K)``."""
    order = np.argsort(unit, kind="stable")
    running = np.cumsum(change[order], axis=0)
    first = np.flatnonzero(np.append(True, unit[order][1:] != unit[order][:-1])[: len(order)])
    sizes = np.diff(np.append(first, len(order)))
    offset = np.repeat(running[first] - change[order][first], sizes, axis=0)
    earlier = np.empty_like(running)
    earlier[order] = running - change[order] - offset
    return earlier
