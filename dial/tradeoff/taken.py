"""What a decision does with every row: which stage answers it, what that costs, and how good it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dial.stages.metrics.base import Mean, Metric
from dial.stages.metrics.groups import GroupAccuracy
from dial.stages.metrics.metrics import metric as metric_named
from dial.stages.metrics.texts import TextMetric
from dial.stages.table import StageTable

DRAWS, DRAWN_ROWS = 25, 50_000
ROUNDING = 1e-12  # share of the largest gain that is rounding error


@dataclass(frozen=True, eq=False)
class Taken:
    """The stage of every row of a table, or the chances of all stages where a coin decides.

    Attributes:
        table: the rows.
        stages: ``(N,)`` the stage that answers; None where a coin decides.
        chances: ``(F, S)`` of each stage where a coin decides, for each of ``left_out``.
        left_out: sets of tiers that do not run, one for each of ``F`` parts of the rows.
        which: ``(N,)`` the part of each row; None: the first for all.
        score: that decided; one that is known late costs more (:meth:`StageTable.deciding_by`).
    """

    table: StageTable = field(repr=False)
    stages: np.ndarray | None = None
    chances: np.ndarray | None = None
    left_out: tuple[tuple[str, ...], ...] = ((),)
    which: np.ndarray | None = None
    score: str = ""

    @classmethod
    def at(cls, table: StageTable, stages: np.ndarray, left_out: Sequence[str] = (), score: str = "") -> Taken:
        """Every row stops at its stage ``(N,)``, some tiers do not run, and a score decided."""
        small = np.min_scalar_type(-len(table.stages))  # there are as many decisions as points, each of all rows
        return cls(table, stages=np.asarray(stages, dtype=small), left_out=(tuple(left_out),), score=score)

    @classmethod
    def drawn(cls, table: StageTable, chances: np.ndarray, left_out: Sequence[str] = ()) -> Taken:
        """Every row stops at each stage with the same chances ``(S,)``."""
        return cls(table, chances=np.asarray(chances)[None], left_out=(tuple(left_out),))

    @classmethod
    def all_at(cls, table: StageTable, stage: int) -> Taken:
        """Every row stops at one stage, after all earlier ones."""
        return cls.at(table, np.full(len(table), stage))

    @classmethod
    def joined(cls, table: StageTable, which: np.ndarray, parts: Sequence[Taken]) -> Taken:
        """Decisions over parts of the rows as one: the part ``(N,)`` of each row, and what is done in each."""
        stages = chances = None
        if parts[0].stages is None:
            chances = np.concatenate([taken.chances for taken in parts if taken.chances is not None])
        else:
            stages = np.empty(len(table), parts[0].stages.dtype)
            for position, taken in enumerate(parts):
                stages[np.flatnonzero(which == position)] = taken.stages
        return cls(table, stages, chances, tuple(taken.left_out[0] for taken in parts), which, parts[0].score)

    def take(self, rows: np.ndarray) -> Taken:
        """The same for some rows, given by a mask ``(N,)`` or by indices."""
        stages, which = (None if values is None else values[rows] for values in (self.stages, self.which))
        return dataclasses.replace(self, table=self.table.take(rows), stages=stages, which=which)

    @property
    def chances_of_rows(self) -> np.ndarray:
        """The chances of each stage for every row, ``(N, S)``, where a coin decides."""
        assert self.chances is not None
        if self.which is None:
            return np.broadcast_to(self.chances[0], self.table.macs.shape)
        chances: np.ndarray = self.chances[self.which]
        return chances

    @property
    def macs(self) -> np.ndarray:
        """Cost of every row ``(N,)``, without the tiers that do not run; its expectation where a coin decides."""
        return self.charged(self.table)

    def charged(self, table: StageTable) -> np.ndarray:
        """Cost of every row ``(N,)`` by the costs of another table of the same rows."""
        return self.spent(table.deciding_by(self.score).macs_without)

    def spent(self, costs_without: Callable[[tuple[str, ...]], np.ndarray]) -> np.ndarray:
        """Cost of every row ``(N, ...)``, from the costs ``(N, S, ...)`` of stopping where some tiers do not run."""
        distinct = list(dict.fromkeys(self.left_out))  # parts mostly leave out the same tiers, or none
        spent = self.pick(costs_without(distinct[0]))
        for tiers in distinct[1:] if self.which is not None else ():
            here = np.array([other == tiers for other in self.left_out])[self.which]
            spent[here] = self.pick(costs_without(tiers))[here]
        return spent

    def pick(self, values: np.ndarray) -> np.ndarray:
        """What ``values (N, S)`` or ``(N, S, K)`` come to for every row, ``(N,)`` or ``(N, K)``."""
        if self.stages is None:
            picked: np.ndarray = np.einsum("ns,ns...->n...", self.chances_of_rows, values)
            return picked
        place = np.arange(0, values.shape[0] * values.shape[1], values.shape[1])
        place += self.stages
        if values.ndim == 2:
            return values.reshape(-1)[place]
        return np.stack([values[..., k].reshape(-1)[place] for k in range(values.shape[2])]).T

    @property
    def shares(self) -> np.ndarray:
        """Share of rows that each stage answers, ``(S,)``."""
        if self.stages is not None:
            return np.bincount(self.stages, minlength=len(self.table.stages)) / len(self.stages)
        shares: np.ndarray = self.chances_of_rows.mean(axis=0)
        return shares


def super_alone(table: StageTable) -> Taken:
    """The last stage answers every row, and no earlier tier runs."""
    tiers = [stage.tier for stage in table.stages]
    earlier = [tier for tier in dict.fromkeys(tiers) if tier != tiers[-1]]
    return Taken.at(table, np.full(len(table), len(tiers) - 1), earlier)


def metric_of(table: StageTable, name: str | None = None) -> Metric:
    """A metric of this table: a column of its own statistics, or one by name (default: the table's first)."""
    name = table.metrics[0] if name is None else name
    if name in table.statistics:
        return Mean(name, table.range_of(name))
    metric = metric_named(name)
    return GroupAccuracy(units_of(table)) if isinstance(metric, GroupAccuracy) else metric


def row_statistics(table: StageTable, metric: Metric) -> np.ndarray:
    """Statistics of every row at every stage, ``(N, S, K)``.

    Raises:
        ValueError: the metric is not additive, so there are none.
    """
    return table.metric_statistics(additive(metric).name)[1]


def additive(metric: Metric) -> Metric:
    """The metric, where it is a function of sums over rows; else refuse it."""
    if not metric.additive:
        raise ValueError(f"`metrics` must start with an additive metric, but {metric.name} is not; put another first.")
    return metric


def units_of(table: StageTable) -> np.ndarray:
    """Which rows belong together, ``(N,)`` from 0: those of one group, or each row by itself."""
    if table.group is None:
        return np.arange(len(table))
    units: np.ndarray = np.unique(table.group, return_inverse=True)[1]
    return units


def summed(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Sums of values ``(N, ...)`` over the rows of each unit ``(N,)``, ``(U, ...)``."""
    count = int(units.max(initial=-1)) + 1
    if count == len(units) and (units[:-1] < units[1:]).all():
        return values
    columns = values.reshape(len(units), -1).T
    sums = np.stack([np.bincount(units, column, count) for column in columns], axis=-1)
    return sums.reshape(count, *values.shape[1:])


def quality_at(table: StageTable, name: str, stages: np.ndarray) -> float:
    """A metric when every row stops at its stage ``(N,)``; any metric, additive or not."""
    metric, taken = metric_of(table, name), Taken.at(table, stages)
    if isinstance(metric, TextMetric):
        return float(metric.value(taken.pick(row_statistics(table, metric)).sum(axis=0)))
    answers = taken.pick(table.statistics.get(name, table.predictions))
    return metric.evaluate(table.label, answers, table.task.classes)


def row_gains(table: StageTable, name: str) -> np.ndarray:
    """How good each answer of each row is, ``(N, S)``; only differences within a row matter.

    Of free text it is what the answer adds to the metric where all other rows have the last stage's: for a metric that
    is no mean, to first order.
    """
    if name in table.statistics:
        return table.statistics[name]
    if not table.task.written:
        return table.task.gains(table.predictions, table.label)
    metric, statistics = table.metric_statistics(name)
    gains: np.ndarray = statistics @ metric.gradient(statistics[:, -1].sum(axis=0))
    return gains


def right_rows(table: StageTable) -> np.ndarray:
    """Which answers are right, ``(N, S)``; of free text those that are worth as much as the last stage's."""
    if table.task.written:
        gains = row_gains(table, table.metrics[0])
        return np.asarray(gains >= gains[:, -1:] - ROUNDING * np.abs(gains).max(initial=0))
    return np.asarray(table.predictions == table.label[:, None])


def quality_of(taken: Taken, name: str | None = None) -> float:
    """A metric of a decision (default: the table's first).

    Where a coin decides it is that of the expected sums; a metric that has none is averaged over draws.
    """
    metric = metric_of(taken.table, name)
    if taken.stages is not None:
        return quality_at(taken.table, metric.name, taken.stages)
    if not metric.additive:
        return mean_over_draws(taken.table, metric, taken.chances_of_rows)
    return float(metric.value(taken.pick(row_statistics(taken.table, metric)).sum(axis=0)))


def mean_over_draws(table: StageTable, metric: Metric, chances: np.ndarray, seed: int = 0) -> float:
    """A metric that is no function of sums, averaged over draws: :data:`DRAWS`, fewer of many rows.

    Args:
        table: rows of one split.
        metric: any.
        chances: of each stage, ``(S,)`` or ``(N, S)``.
        seed: of the draws.
    """
    rng, rows = np.random.default_rng(seed), np.arange(len(table))
    passed = np.broadcast_to(np.cumsum(chances, axis=-1), table.macs.shape)[:, :-1]
    answers = table.statistics.get(metric.name, table.predictions)
    values = []
    for _ in range(int(np.clip(DRAWN_ROWS // max(len(rows), 1), 1, DRAWS))):
        stages = (rng.random((len(rows), 1)) >= passed).sum(axis=1)
        values.append(metric.evaluate(table.label, answers[rows, stages], table.task.classes))
    return float(np.mean(values))
