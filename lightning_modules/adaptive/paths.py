"""Sums of a metric's statistics and of the costs at every point of a rule's dial."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_modules.adaptive.metrics import METRICS, Mean, Metric
from lightning_modules.adaptive.quantiles import Quantiles
from lightning_modules.adaptive.rules import Events
from lightning_modules.adaptive.table import StageTable
from lightning_modules.adaptive.tradeoff import events_of, midway


def metric_of(table: StageTable, name: str | None = None) -> Metric:
    """A metric of this table: a column of its own statistics, or one by name (default: the table's first)."""
    name = table.metrics[0] if name is None else name
    return Mean(name) if name in table.statistics else METRICS[name]


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
    return metric_of(table, name).evaluate(table.label, answers, len(table.label_names) or None)


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
    def of(cls, table: StageTable, score: str, rule: str = "threshold", quantiles: Quantiles | None = None) -> "Path":
        """Build the path of a score under a rule.

        Args:
            table: rows of one split.
            score: name of a score in the table; ignored by the rules patience and oracle.
            rule: one of :data:`lightning_modules.adaptive.tradeoff.RULES`.
            quantiles: a fit on other rows; by default, and only with more than two stages, fitted on these.

        Raises:
            ValueError: the rule is unknown, or the table does not hold the score.
        """
        return cls(table, *events_of(table, score, rule, quantiles))

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

    def stages(self, point: int) -> np.ndarray:
        """Stage of each row at a point, ``(N,)``."""
        return self.events.stages(self.dial[point])
