"""Trade-off curves: quality and mean cost at every decision that differs, as cumulative sums over a rule's events."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.sparse import csr_array

from dial.stages.metrics.base import Metric
from dial.stages.metrics.groups import GroupAccuracy
from dial.stages.table import StageTable
from dial.tradeoff.events import Events
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.taken import metric_of, row_statistics, summed, units_of

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 2**20  # events
GRID = 101
"""Points at which a metric that is not additive is computed, evenly spaced over the points of a curve."""
Reweighted = Callable[[Metric, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Quality and mean cost ``(M, b)`` of some points under a metric and weights of the units ``(U, b)``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve(ABC):
    """Quality and mean cost of ``P`` settings of a rule's dial, from "stop at once" to "always go on".

    Charts, choices and resamples all read the one curve; what they ask of it is computed when it is first asked for.

    Attributes:
        table: the rows of one split.
        rule: name of the rule.
        score: name of the score, or of the rule where that reads none.
        dial: ``(P,)`` ascending from minus infinity to plus infinity, midway between the dials at which a row moves.
            For two stages it is the threshold itself; for more, a quantile.
        quantiles: the scale of a dial that is shared by several stages, or None where the dial is the score itself.
        along: what was computed along the curve, whatever its dial is called; see :meth:`like`.
    """

    table: StageTable = field(repr=False)
    rule: str
    score: str
    dial: np.ndarray = field(repr=False)
    quantiles: Quantiles | None = field(default=None, repr=False)
    along: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.dial)

    @abstractmethod
    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over rows of ``values`` at the row's stage: ``(N, S, ...) -> (P, ...)``."""

    @abstractmethod
    def picked(self, values: np.ndarray, point: int) -> np.ndarray:
        """``values`` of every row at its stage: ``(N, S, ...) -> (N, ...)``."""

    @abstractmethod
    def moments(self, statistics: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Second moments of sums over units, along the curve.

        Args:
            statistics: ``(N, S, K)``.
            units: ``(N,)`` from :func:`~dial.tradeoff.taken.units_of`; rows of one unit are summed before anything is
                squared.

        Returns:
            Sums over units of x xᵀ and of x yᵀ at every point, ``(P, K, K)``, and of y yᵀ, ``(K, K)``; x are a unit's
            sums at the point, y those at the last stage.
        """

    @abstractmethod
    def reweighted(self, statistics: np.ndarray, units: np.ndarray, points: np.ndarray | None = None) -> Reweighted:
        """Some points, ready for weights of the units that the rows are drawn in.

        Args:
            statistics: ``(N, S, K)``.
            units: ``(N,)`` from 0 up.
            points: which; None: all those at which quality can change.
        """

    @abstractmethod
    def evaluated(self, metric: Metric, points: np.ndarray) -> Iterator[float]:
        """A metric that is no function of sums, at the given ascending points."""

    @property
    @abstractmethod
    def shares(self) -> np.ndarray:
        """Share of rows that each stage answers, ``(P, S)``."""

    @property
    @abstractmethod
    def fingerprint(self) -> bytes:
        """The same for curves that move the same rows of one table in the same order."""

    @property
    def split(self) -> str:
        """The rows that it was computed on.

        Raises:
            ValueError: the table holds several splits: their mixture is nobody's quality.
        """
        if len(self.table.splits) != 1:
            raise ValueError(
                f"`table` must hold one split, but got {list(self.table.splits)}. Take one with `of_split`."
            )
        return self.table.splits[0]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages."""
        return self.table.stage_names

    def kept(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What is computed when it is first asked for, of this curve or of one like it."""
        if key not in self.along:
            self.along[key] = compute()
        return self.along[key]

    def like(self, other: Curve | None) -> Self:
        """The same curve, with all that is known of another that moves the same rows in the same order.

        Scores of two classes are mostly one order: what is summed along it is summed once, and held once.

        Args:
            other: on the same table; where it moves other rows, or is None, this curve comes back as it is.
        """
        return self

    @property
    def macs(self) -> np.ndarray:
        """Mean MACs per row at each point, ``(P,)``."""
        macs: np.ndarray = self.kept("macs", lambda: self.sums(self.table.macs) / len(self.table))
        return macs

    @property
    @abstractmethod
    def early(self) -> np.ndarray:
        """Share of rows that stop before the last stage at each point, ``(P,)``."""

    @property
    def quality(self) -> dict[str, np.ndarray]:
        """``(P,)`` by metric of the table, the primary first; NaN off the grid for a metric that is not additive."""
        return {name: self.quality_by(name) for name in self.table.metrics}

    def quality_by(self, name: str) -> np.ndarray:
        """One metric at every point, ``(P,)``."""
        quality: np.ndarray = self.kept(("quality", name), lambda: self._quality(metric_of(self.table, name)))
        return quality

    def _quality(self, metric: Metric) -> np.ndarray:
        if metric.additive:
            return metric.value(self.sums(row_statistics(self.table, metric)))
        quality = np.full(len(self), np.nan)
        points = np.unique(np.linspace(0, len(self) - 1, GRID).round().astype(np.intp))
        quality[points] = list(self.evaluated(metric, points))
        return quality

    def take(self, points: np.ndarray) -> Self:
        """Return the curve at some of its points, given by ascending indices."""
        along: dict[Any, Any] = {("quality", name): values[points] for name, values in self.quality.items()}
        along["macs"] = self.macs[points]
        return dataclasses.replace(self, **{name: at[points] for name, at in self._by_point().items()}, along=along)

    def _by_point(self) -> dict[str, Any]:
        """The fields that have an entry for each point."""
        return {"dial": self.dial}


@dataclass(frozen=True, eq=False, kw_only=True)
class EventCurve(Curve):
    """The curve of a rule that decides by what it knows of a row.

    Attributes:
        events: the moves behind the curve, sorted by dial.
        applied: ``(P,)`` how many events are in effect at each point.
    """

    events: Events = field(repr=False)
    applied: np.ndarray = field(repr=False)

    @classmethod
    def of(
        cls, table: StageTable, events: Events, rule: str = "", score: str = "", quantiles: Quantiles | None = None
    ) -> EventCurve:
        """One point for every dial that changes a decision.

        Args:
            table: the rows of one split.
            events: on these rows.
            rule: name for the curve.
            score: name for the curve.
            quantiles: what the events' dials are quantiles of, if they are.
        """
        # A point shows the state after all events that share its dial.
        last_of_tie = np.append(events.dial[1:] != events.dial[:-1], True)[: len(events.dial)]
        applied = np.concatenate([[0], np.flatnonzero(last_of_tie) + 1]).astype(np.int32)
        distinct = events.dial[last_of_tie]
        dial = midway(distinct) if len(distinct) else np.array([-np.inf])
        return cls(table=table, rule=rule, score=score, dial=dial, quantiles=quantiles, events=events, applied=applied)

    def like(self, other: Curve | None) -> EventCurve:
        """See :meth:`Curve.like`."""
        if not isinstance(other, EventCurve) or other.table is not self.table:
            return self
        moves = ("row", "before", "after", "start")
        same = all(np.array_equal(getattr(self.events, name), getattr(other.events, name)) for name in moves)
        if not same or not np.array_equal(self.applied, other.applied):
            return self
        events = dataclasses.replace(other.events, dial=self.events.dial)
        return dataclasses.replace(self, events=events, applied=other.applied, along=other.along)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """See :meth:`Curve.sums`; a cumulative sum over the events."""
        rows, stages = self.table.macs.shape
        columns = values.reshape(rows, stages, -1)
        total = np.empty((len(self), columns.shape[-1]))
        for k in range(columns.shape[-1]):
            column = np.ascontiguousarray(columns[..., k])
            start = np.arange(0, rows * stages, stages)
            start += self.events.start
            total[:, k] = column.reshape(-1)[start].sum(dtype=np.float64)
            del start
            if not (column == column[:, :1]).all():  # else the same at every stage, such as a count
                total[:, k] += self._running(self._changes(column))
        return total.reshape(len(self), *values.shape[2:])

    def _changes(self, column: np.ndarray) -> np.ndarray:
        """What each event changes in the sum of ``(N, S)`` values at the rows' stages, ``(E,)``."""
        events, stages, flat = self.events, column.shape[1], column.reshape(-1)
        change = np.empty(len(events.row), column.dtype)
        for begin in range(0, len(change), AT_ONCE):
            some = slice(begin, begin + AT_ONCE)
            row = events.row[some].astype(np.intp) * stages
            np.subtract(flat[row + events.after[some]], flat[row + events.before[some]], out=change[some])
        return change

    def _running(self, change: np.ndarray) -> np.ndarray:
        """Sum of the changes ``(E, ...)`` in effect at every point, ``(P, ...)``."""
        running = np.zeros((len(change) + 1, *change.shape[1:]), np.float64 if change.dtype.kind == "f" else np.int64)
        np.cumsum(change, axis=0, out=running[1:])
        return running if len(running) == len(self.applied) else running[self.applied]

    def picked(self, values: np.ndarray, point: int) -> np.ndarray:
        """See :meth:`Curve.picked`."""
        return values[np.arange(len(values)), self.stages_at(point)]

    def stages_at(self, point: int) -> np.ndarray:
        """Stage of each row at a point, ``(N,)``."""
        return self.events.stages(self.dial[point])

    def evaluated(self, metric: Metric, points: np.ndarray) -> Iterator[float]:
        """See :meth:`Curve.evaluated`."""
        events, rows, done = self.events, np.arange(len(self.table)), 0
        taken = events.start.astype(np.intp)
        for end in self.applied[points]:
            np.maximum.at(taken, events.row[done:end], events.after[done:end].astype(np.intp))
            done = end
            yield metric.evaluate(self.table.label, self.table.predictions[rows, taken])

    @property
    def early(self) -> np.ndarray:
        """See :attr:`Curve.early`."""
        last, rows = len(self.table.stages) - 1, len(self.events.start)
        gone = self._running((self.events.after == last).view(np.int8))
        return np.asarray(((self.events.start < last).sum() - gone) / max(rows, 1))

    @property
    def shares(self) -> np.ndarray:
        """See :attr:`Curve.shares`."""
        events, counts = self.events, np.empty((len(self), len(self.table.stages)))
        for stage in range(counts.shape[1]):
            change = (events.after == stage).astype(np.int8) - (events.before == stage)
            counts[:, stage] = (events.start == stage).sum() + self._running(change)
        return counts / len(events.start)

    @property
    def fingerprint(self) -> bytes:
        """See :attr:`Curve.fingerprint`."""
        digest = blake2b()
        for values in (self.applied, self.events.row, self.events.after):
            digest.update(np.ascontiguousarray(values).data)
        return digest.digest()

    def moments(self, statistics: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`Curve.moments`."""
        events, rows = self.events, np.arange(len(statistics))
        count = int(units.max(initial=-1)) + 1
        if count == len(rows):  # nothing is summed before it is squared
            last = statistics[:, -1]
            return self._products(statistics, statistics), self._products(statistics, last[:, None]), last.T @ last
        y, start = summed(statistics[:, -1], units), summed(statistics[rows, events.start], units)
        unit = units[events.row]
        change = statistics[events.row, events.after] - statistics[events.row, events.before]
        before = start[unit] + _earlier_changes(change, unit)
        step = change[:, :, None] * before[:, None, :]
        squares = self._running(step + step.transpose(0, 2, 1) + change[:, :, None] * change[:, None, :])
        crossed = self._running(change[:, :, None] * y[unit][:, None, :])
        return start.T @ start + squares, start.T @ y + crossed, y.T @ y

    def _products(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Sums over rows of the products of ``(N, S, K)`` and ``(N, S or 1, K)`` at the row's stage, ``(P, K, K)``."""
        total = np.empty((len(self), first.shape[2], second.shape[2]))
        for i, j in np.ndindex(total.shape[1:]):
            if first is second and j < i:
                total[:, i, j] = total[:, j, i]
            else:
                total[:, i, j] = self.sums(first[..., i] * second[..., j])
        return total

    def reweighted(self, statistics: np.ndarray, units: np.ndarray, points: np.ndarray | None = None) -> Reweighted:
        """See :meth:`Curve.reweighted`.

        Between the points at which quality can change only rows move whose answers do not differ, so quality is
        constant and cost goes up: no target has its cheapest point, and no area its bend, anywhere else. A tenth of the
        points or so is left.
        """
        events, applied = self.events, self.applied
        count, sizes = int(units.max()) + 1, np.bincount(units)
        columns = [np.ascontiguousarray(values) for values in (*np.moveaxis(statistics, -1, 0), self.table.macs)]
        point = np.repeat(np.arange(1, len(applied), dtype=np.int32), np.diff(applied))
        if points is None:
            changes = [self._changes(column) for column in columns]
            matters = np.any([change != 0 for change in changes[:-1]], axis=0) | (changes[-1] < 0)
            reached = np.unique(point[matters])  # by a step that changes something
            points = np.concatenate([[0], reached - 1, reached, [len(applied) - 1]])
        nodes = np.unique(points).astype(np.int64)
        node, unit = np.searchsorted(nodes, point), units[events.row]
        del point

        def matrix(column: np.ndarray) -> csr_array | np.ndarray:
            """Sums of each unit at the first node, and their changes up to each other one, ``(M, U)``."""
            start = np.arange(0, column.size, column.shape[1])
            start += events.start
            first, change = np.bincount(units, column.reshape(-1)[start], count), self._changes(column)
            used = np.flatnonzero(change)
            if 2 * len(used) > len(nodes) * count:  # hardly an entry would be zero
                whole = np.bincount(node * count + unit, change, len(nodes) * count).reshape(len(nodes), count)
                whole[0] += first
                return whole
            places = (
                np.concatenate([np.zeros(count, np.int64), node[used]]),
                np.concatenate([np.arange(count), unit[used]]),
            )
            return csr_array((np.concatenate([first, change[used]]), places), shape=(len(nodes), count))

        *sums, costs = map(matrix, columns)

        def evaluate(metric: Metric, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            along = np.stack([np.cumsum(column @ weights, axis=0) for column in sums], axis=-1)
            return metric.value(along), np.cumsum(costs @ weights, axis=0) / (sizes @ weights)

        return evaluate

    def _quality(self, metric: Metric) -> np.ndarray:
        """Of whole groups, right where none of their rows is wrong; sums of rows do for every other metric."""
        if not isinstance(metric, GroupAccuracy):
            return super()._quality(metric)
        events, rows = self.events, np.arange(len(self.table))
        wrong = metric.wrong(self.table.label, self.table.predictions).astype(np.int64)
        units = units_of(self.table)
        start = np.bincount(units, weights=wrong[rows, events.start])
        unit = units[events.row]
        change = wrong[events.row, events.after] - wrong[events.row, events.before]
        before = start[unit] + _earlier_changes(change[:, None], unit)[:, 0]
        whole = (start == 0).sum() + self._running((before + change == 0).astype(np.int8) - (before == 0))
        return np.asarray(whole / len(start))

    def _by_point(self) -> dict[str, Any]:
        return {"dial": self.dial, "applied": self.applied}


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


def midway(values: np.ndarray) -> np.ndarray:
    """Dials ``(D + 1,)`` between sorted distinct ``values`` ``(D,)``: −inf, the midpoints, +inf.

    A midpoint of neighbouring floats may round to the lower one, which would count as reached; the upper one is
    taken then.
    """
    middle = values[:-1] / 2 + values[1:] / 2  # their difference may be larger than a float can be
    middle = np.where((middle > values[:-1]) & (middle <= values[1:]), middle, values[1:])
    return np.concatenate([[-np.inf], middle, [np.inf]])


def to_frame(curve: Curve) -> pa.Table:
    """Return a curve as columns: split, score, rule, dial, mean MACs, every metric, the share of every stage."""
    import pyarrow as pa

    names = {name: [getattr(curve, name)] for name in ("split", "score", "rule")}
    zeros = pa.array(np.zeros(len(curve), dtype=np.int32))
    columns = {name: pa.DictionaryArray.from_arrays(zeros, pa.array(value)) for name, value in names.items()}
    columns |= {"dial": curve.dial, "macs": curve.macs, **curve.quality}
    shares = curve.shares  # of all stages, computed at each asking
    columns |= {f"share_{name}": shares[:, stage] for stage, name in enumerate(curve.stages)}
    return pa.table(columns)


def concat(curves: Sequence[Curve]) -> pa.Table:
    """Return several curves of the same stages and metrics, one below the other (see :func:`to_frame`)."""
    import pyarrow as pa

    return pa.concat_tables([to_frame(each) for each in curves]).unify_dictionaries()
