"""Trade-off curves: quality and mean cost at every decision that differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dial.stages.metrics.metrics import METRICS
from dial.stages.table import StageTable
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.random_routing import RandomPath, mean_over_draws
from dial.tradeoff.rules import Events, oracle_events, patience_events, threshold_events, tolerance_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Curve",
    "Quantiles",
    "concat",
    "curve",
    "largest_gap",
    "normalised_area",
    "thin",
    "to_frame",
    "trade_off",
]

RULES = ("threshold", "patience", "oracle")
ROUNDING = 1e-9  # share of an area that is rounding error, where nothing is gained
GRID = 101
"""Points at which a metric that is not additive is computed, evenly spaced over the points of a curve."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Quality and mean cost of ``P`` settings of the dial, from "stop at once" to "always go on".

    Attributes:
        split: the rows that it was computed on.
        score: name of the score, or ``oracle``, or ``patience``.
        rule: ``threshold``, ``patience`` or ``oracle``.
        dial: ``(P,)`` ascending from minus infinity to plus infinity, midway between the dials at which a row moves.
            For two stages it is the threshold itself; for more, a quantile (see :meth:`thresholds`).
        quality: ``(P,)`` by metric, the primary first; NaN off the grid for a metric that is not additive.
        macs: ``(P,)`` mean MACs per example.
        stages: names of the stages.
        events: the moves behind the curve; None for random routing, which is its expectation over all draws.
        applied: ``(P,)`` how many events are in effect at each point; None for random routing.
        chances: ``(P, S)`` of each stage, for random routing.
        quantiles: the scale of a dial that is shared by several stages, or None.
    """

    split: str
    score: str
    rule: str
    dial: np.ndarray
    quality: dict[str, np.ndarray]
    macs: np.ndarray
    stages: tuple[str, ...]
    events: Events | None = field(repr=False)
    applied: np.ndarray | None = field(repr=False)
    quantiles: Quantiles | None = field(default=None, repr=False)
    chances: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.dial)

    @cached_property
    def shares(self) -> np.ndarray:
        """Share of rows that each stage answers, ``(P, S)``; computed when first asked for."""
        if self.events is None or self.applied is None:
            assert self.chances is not None
            return self.chances
        counts = np.empty((len(self), len(self.stages)))
        for stage in range(len(self.stages)):
            change = (self.events.after == stage).astype(np.int8) - (self.events.before == stage)
            counts[:, stage] = _after((self.events.start == stage).sum(), change, self.applied)
        return counts / len(self.events.start)

    def take(self, points: np.ndarray) -> Curve:
        """Return the curve at some of its points, given by ascending indices."""
        quality = {name: values[points] for name, values in self.quality.items()}
        given = (name for name in ("dial", "macs", "applied", "chances") if getattr(self, name) is not None)
        columns = {name: getattr(self, name)[points] for name in given}
        return dataclasses.replace(self, quality=quality, **columns)

    def thresholds(self, point: int) -> np.ndarray:
        """Return the raw thresholds ``(S - 1,)`` of one point: ``rules.replay`` with them takes the same stages."""
        if self.quantiles is not None:
            return self.quantiles.thresholds(float(self.dial[point]))
        return np.full(len(self.stages) - 1, self.dial[point])


def trade_off(
    table: StageTable,
    events: Events,
    score: str = "",
    rule: str = "threshold",
    metrics: Sequence[str] | None = None,
    quantiles: Quantiles | None = None,
) -> Curve:
    """Turn events into the exact curve: one point for every dial that changes a decision.

    Args:
        table: the rows of one split.
        events: from :mod:`dial.tradeoff.rules`, on these rows.
        score: name for the curve.
        rule: name for the curve.
        metrics: names; by default the table's.
        quantiles: what the events' dials are quantiles of, if they are.

    Raises:
        ValueError: if the table holds several splits: their mixture is nobody's quality.
    """
    _check_one_split(table)
    rows, stages = table.macs.shape
    # A point shows the state after all events that share its dial.
    last_of_tie = np.append(events.dial[1:] != events.dial[:-1], True)[: len(events.dial)]
    applied = np.concatenate([[0], np.flatnonzero(last_of_tie) + 1])
    row = events.row.astype(np.intp) * stages
    moves = _Moves(events.start + np.arange(rows) * stages, row + events.before, row + events.after, applied)
    quality = {name: _quality(table, name, moves, events) for name in metrics or table.metrics}
    macs = moves.sums(table.macs) / rows
    distinct = events.dial[applied[1:] - 1]
    dial = midway(distinct) if len(distinct) else np.array([-np.inf])
    return Curve(table.splits[0], score, rule, dial, quality, macs, table.stage_names, events, applied, quantiles)


def curve(
    table: StageTable,
    score: str,
    rule: str = "threshold",
    quantiles: Quantiles | None = None,
    metrics: Sequence[str] | None = None,
) -> Curve:
    """Return the exact curve of a score and rule on the rows of one split.

    Args:
        table: the rows.
        score: a score that the table holds; ``oracle`` gives the oracle whatever the rule; ``random`` the expectation
            of random routing; not read by ``patience``.
        rule: one of ``threshold``, ``patience``, ``oracle``.
        quantiles: for more than two stages, fitted on the calibration rows' score; by default on ``table`` itself,
            which is right for a curve *of* calibration rows. Not used for two stages, whose dial is the score itself.
        metrics: names; by default the table's.

    Raises:
        ValueError: if the rule is unknown or the table does not hold the score.
    """
    if is_random(score, rule):
        return _random_curve(table, metrics or table.metrics)
    primary = (metrics or table.metrics)[0]
    rule = "oracle" if score == "oracle" else rule
    events, quantiles = events_of(table, score, rule, quantiles, primary)
    return trade_off(table, events, score if rule == "threshold" else rule, rule, metrics, quantiles)


def is_random(score: str, rule: str = "threshold") -> bool:
    """Whether a coin decides, so that quality and cost are expectations over its draws."""
    return score == "random" and rule == "threshold"


def _random_curve(table: StageTable, metrics: Sequence[str]) -> Curve:
    """The expectation of random routing; on a grid, from draws, for a metric that is no function of sums."""
    _check_one_split(table)
    path, quality = RandomPath(table), {}
    for name in metrics:
        if name not in table.statistics and name in METRICS and not METRICS[name].additive:
            quality[name] = np.full(len(path), np.nan)
            for point in np.linspace(0, len(path) - 1, GRID).round().astype(np.intp):
                quality[name][point] = mean_over_draws(table, METRICS[name], path.chances[point])
            continue
        metric, statistics = table.metric_statistics(name)
        quality[name] = metric.value(path.sums(statistics))
    columns = (path.dial, quality, path.macs, table.stage_names)
    return Curve(table.splits[0], "random", "threshold", *columns, events=None, applied=None, chances=path.chances)


def _check_one_split(table: StageTable) -> None:
    if len(table.splits) != 1:
        raise ValueError(f"`table` must hold one split, but got {list(table.splits)}. Take one with `of_split`.")


def events_of(
    table: StageTable, score: str, rule: str, quantiles: Quantiles | None = None, metric: str | None = None
) -> tuple[Events, Quantiles | None]:
    """Return a rule's events on the rows of one split, and the scale of its dial where stages share one.

    Args:
        table: the rows.
        score: a score that the table holds; read by ``threshold`` only.
        rule: one of :data:`RULES`.
        quantiles: for more than two stages, fitted on other rows' score; by default on these rows.
        metric: what the oracle optimises; by default the table's first.

    Raises:
        ValueError: if the rule is unknown or the table does not hold the score.
    """
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of: {', '.join(RULES)}; but got {rule!r}. Choose one of these.")
    if rule == "oracle":
        return oracle_events(table, metric or table.metrics[0]), None
    if rule == "patience":
        return patience_events(table.predictions, tolerance_of(table)), None
    if score not in table.scores:
        raise ValueError(
            f"`score` must be one that the table holds: {', '.join([*table.scores, 'oracle'])}; but got {score!r}. "
            "Compute it first with `with_scores`."
        )
    values = table.scores[score]
    if len(table.stages) <= 2:  # the dial is the score itself
        return threshold_events(values), None
    quantiles, values = (quantiles, quantiles.transform(values)) if quantiles else Quantiles.fit_transform(values)
    return threshold_events(values), quantiles


def normalised_area(curve: Curve, random: Curve, oracle: Curve, metric: str | None = None) -> float | None:
    """Return where a curve lies between random routing (0) and the oracle (1): (A - A_random) / (A_oracle - A_random).

    ``A`` is the area under quality over mean MACs, between the costs of always stopping at once and of always going on.

    Returns:
        The share, or None where it is undefined: the last stage is not better than the first, or the areas coincide.
    """
    metric = metric or next(iter(curve.quality))
    if not oracle.quality[metric][-1] > oracle.quality[metric][0]:
        return None
    area, area_random, area_oracle = (_area(each, metric) for each in (curve, random, oracle))
    if not area_oracle - area_random > ROUNDING * abs(area_oracle):
        return None
    return (area - area_random) / (area_oracle - area_random)


def to_frame(curve: Curve) -> pa.Table:
    """Return a curve as columns: split, score, rule, dial, mean MACs, every metric, the share of every stage."""
    import pyarrow as pa

    names = {name: [getattr(curve, name)] for name in ("split", "score", "rule")}
    zeros = pa.array(np.zeros(len(curve), dtype=np.int32))
    columns = {name: pa.DictionaryArray.from_arrays(zeros, pa.array(value)) for name, value in names.items()}
    columns |= {"dial": curve.dial, "macs": curve.macs, **curve.quality}
    columns |= {f"share_{name}": curve.shares[:, stage] for stage, name in enumerate(curve.stages)}
    return pa.table(columns)


def concat(curves: Sequence[Curve]) -> pa.Table:
    """Return several curves of the same stages and metrics, one below the other (see :func:`to_frame`)."""
    import pyarrow as pa

    return pa.concat_tables([to_frame(each) for each in curves]).unify_dictionaries()


@dataclass(frozen=True)
class _Moves:
    """Events as positions in a flattened ``(N * S,)`` column, and how many are in effect at each point of the curve."""

    start: np.ndarray
    before: np.ndarray
    after: np.ndarray
    applied: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of ``values (N, S)`` over the stages taken, at every point, ``(P,)``."""
        flat = np.ascontiguousarray(values).reshape(-1)
        initial = flat[self.start].sum()
        if (values == values[:, :1]).all():  # the same at every stage, such as a count
            return np.full(len(self.applied), initial)
        change = flat[self.after]
        change -= flat[self.before]
        return _after(initial, change, self.applied)


def _after(initial: float, change: np.ndarray, applied: np.ndarray) -> np.ndarray:
    """Return ``initial`` plus the first ``applied[p]`` changes, for every point."""
    total = np.zeros(len(change) + 1, dtype=np.float64 if change.dtype.kind == "f" else np.int64)
    np.cumsum(change, out=total[1:])
    return initial + total[applied]


def midway(values: np.ndarray) -> np.ndarray:
    """Dials ``(D + 1,)`` between sorted distinct ``values`` ``(D,)``: −inf, the midpoints, +inf.

    A midpoint of neighbouring floats may round to the lower one, which would count as reached; the upper one is
    taken then.
    """
    middle = values[:-1] / 2 + values[1:] / 2  # their difference may be larger than a float can be
    middle = np.where((middle > values[:-1]) & (middle <= values[1:]), middle, values[1:])
    return np.concatenate([[-np.inf], middle, [np.inf]])


def _quality(table: StageTable, name: str, moves: _Moves, events: Events) -> np.ndarray:
    """Return a metric at every point, ``(P,)``."""
    if name not in table.statistics and name in METRICS and not METRICS[name].additive:
        return _on_grid(table, name, moves, events)
    metric, statistics = table.metric_statistics(name)
    sums = np.stack([moves.sums(statistics[..., k]) for k in range(statistics.shape[-1])], axis=-1)
    return metric.value(sums)


def _on_grid(table: StageTable, name: str, moves: _Moves, events: Events) -> np.ndarray:
    """Return a metric that is not additive at :data:`GRID` points, NaN at the others."""
    result = np.full(len(moves.applied), np.nan)
    taken = events.start.astype(np.intp)
    rows, done = np.arange(len(taken)), 0
    for point in np.unique(np.linspace(0, len(result) - 1, GRID).round().astype(np.intp)):
        end = moves.applied[point]
        np.maximum.at(taken, events.row[done:end], events.after[done:end].astype(np.intp))
        done = end
        result[point] = METRICS[name].evaluate(table.label, table.predictions[rows, taken])
    return result


def _area(curve: Curve, metric: str) -> float:
    """Return the area under quality over mean MACs by the trapezoid rule."""
    known = np.isfinite(curve.quality[metric])
    return float(np.trapezoid(curve.quality[metric][known], curve.macs[known]))


def thin(curve: Curve, points: int = 2000, tolerance: float = 1e-4) -> Curve:
    """Return at most ``points`` of a curve's points, between which straight lines stay within ``tolerance`` of it.

    Quality is compared at the mean cost of every point left out, for every metric. A curve with few enough points comes
    back whole. Where ``points`` cannot keep the tolerance, the smallest that they can is used (to a few per cent);
    :func:`largest_gap` tells it. Grid points of a metric that is not additive are always kept.

    Raises:
        ValueError: if ``points`` is below 2 or below the number of points that must be kept.
    """
    if len(curve) <= points:
        return curve
    needed = np.zeros(len(curve), dtype=bool)
    needed[[0, -1]] = True
    qualities = []
    for values in curve.quality.values():
        known = np.isfinite(values)
        if known.all():
            qualities.append(values)
        else:
            needed |= known
    if needed.sum() > points or points < 2:
        raise ValueError(
            f"`points` must be at least {max(2, needed.sum())} for this curve, but got {points}. Raise it."
        )
    needed_at = np.flatnonzero(needed)
    kept = _greedy(curve.macs, qualities, tolerance, needed_at)
    low, high = tolerance, tolerance
    while len(kept) > points:
        low, high = high, 2 * high
        kept = _greedy(curve.macs, qualities, high, needed_at)
    while high > 1.02 * low and high > tolerance:
        middle = (low * high) ** 0.5
        trial = _greedy(curve.macs, qualities, middle, needed_at)
        if len(trial) <= points:
            kept, high = trial, middle
        else:
            low = middle
    return curve.take(kept)


def largest_gap(curve: Curve, thinned: Curve) -> float:
    """Return the largest difference in quality between a curve and straight lines between some of its points."""
    gaps = [0.0]
    for values in curve.quality.values():
        if np.isfinite(values).all():
            at = np.searchsorted(curve.dial, thinned.dial)
            position = np.arange(len(curve))
            left = np.clip(np.searchsorted(at, position, side="right") - 1, 0, max(len(at) - 2, 0))
            a, b = at[left], at[np.minimum(left + 1, len(at) - 1)]
            span = curve.macs[b] - curve.macs[a]
            share = np.divide(curve.macs - curve.macs[a], span, out=np.zeros(len(curve)), where=span > 0)
            share[position == b] = 1.0
            gaps.append(float(np.abs(values[a] + share * (values[b] - values[a]) - values).max()))
    return max(gaps)


def _greedy(macs: np.ndarray, qualities: list[np.ndarray], tolerance: float, needed: np.ndarray) -> np.ndarray:
    """Return points to keep: after each comes the farthest whose straight line passes all between closely enough."""
    kept, here, window = [0], 0, 64
    last = len(macs) - 1
    while here < last:
        limit = int(needed[np.searchsorted(needed, here, side="right")])
        while True:
            stop = min(here + window, limit)
            reach, alive = _reach(macs[here : stop + 1], [values[here : stop + 1] for values in qualities], tolerance)
            if not alive or stop == limit:
                break
            window *= 2  # the cone is still open at the end of the window: look farther
        window = max(64, 2 * reach)
        here += reach
        kept.append(here)
    return np.array(kept)


def _reach(macs: np.ndarray, qualities: list[np.ndarray], tolerance: float) -> tuple[int, bool]:
    """Return how far the first point may be joined to by one line, and whether points beyond these might be too.

    Each point passed narrows the cone of slopes that come within the tolerance of it; a point can be joined to if its
    own slope lies within the cone of those before it.
    """
    run = macs[1:] - macs[0]
    allowed = np.ones(len(run), dtype=bool)
    open_cone = np.ones(len(run), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for values in qualities:
            rise = values[1:] - values[0]
            flat = run <= 0  # the same cost: no slope; passed only if the quality is close as well
            lower = np.where(flat, np.where(rise > tolerance, np.inf, -np.inf), (rise - tolerance) / run)
            upper = np.where(flat, np.where(rise < -tolerance, -np.inf, np.inf), (rise + tolerance) / run)
            lower, upper = np.maximum.accumulate(lower), np.minimum.accumulate(upper)
            open_cone &= lower <= upper
            slope = np.where(flat, 0.0, rise / run)
            inside = np.concatenate([[True], (lower[:-1] <= slope[1:]) & (slope[1:] <= upper[:-1])])
            allowed &= inside & (~flat | (np.abs(rise) <= tolerance) | (np.arange(len(run)) == 0))
    dead = np.flatnonzero(~open_cone)
    beyond = int(dead[0]) + 1 if len(dead) else len(run)
    usable = np.flatnonzero(allowed[:beyond])
    return (int(usable[-1]) + 1 if len(usable) else 1), not len(dead)
