"""Measured times of rows: of stopping at each stage, ratios with intervals, quantiles, and rows that were not timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dial.stages.table import StageTable
from dial.tradeoff.taken import Taken

Float = NDArray[np.float64]
RESAMPLES = 1000
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Times:
    """Measured times of one model over the sampled rows, in milliseconds.

    Attributes:
        rows: ``(R, N, E)`` of each repetition and row until the answer of each exit: alone, or its share of its batch.
        processor: ``(R,)`` of processor time of all rows.
    """

    rows: Float
    processor: Float

    def last(self) -> Float:
        """Until the last exit, ``(R, N)``."""
        return self.rows[:, :, -1]


def stage_times(table: StageTable, times: Mapping[str, Times], left_out: Sequence[str] = ()) -> Float:
    """Milliseconds ``(R, N, S)`` of stopping at each stage: earlier tiers as a whole, and this one to its exit.

    Tiers that are left out take no time; at their own stages the times mean nothing then.
    """
    columns: list[Float] = []
    spent: Float | float = 0.0
    for position, stage in enumerate(table.stages):
        if position and stage.tier != table.stages[position - 1].tier:
            spent = columns[-1]
        own = times[stage.tier].rows[:, :, stage.index]
        columns.append(spent + (np.zeros_like(own) if stage.tier in left_out else own))
    return np.stack(columns, axis=2)


def taken_times(table: StageTable, times: Mapping[str, Times], taken: Taken) -> Float:
    """Milliseconds ``(R, N)`` of a decision over the rows that were timed; expectations where a coin decides."""
    spent: Float = taken.spent(lambda left_out: stage_times(table, times, left_out).transpose(1, 2, 0))
    return spent.T


def ratio(reference: Float, cost: Float, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean time of the reference over mean time, the median over repetitions, with a 95 % interval.

    The interval resamples rows (the same for both) and repetitions.

    Args:
        reference: ``(R, N)``.
        cost: ``(R, N)`` in the same repetitions.
        seed: of the resampling.
    """
    repeats, rows = cost.shape
    random = np.random.default_rng(seed)
    weights = random.multinomial(rows, np.full(rows, 1 / rows), RESAMPLES).astype(np.float64)
    ratios = (weights @ reference.T) / (weights @ cost.T)
    again = random.integers(0, repeats, (RESAMPLES, repeats))
    drawn = np.median(np.take_along_axis(ratios, again, axis=1), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(reference.mean(axis=1) / cost.mean(axis=1))), (float(low), float(high))


def spread(values: Any) -> dict[str, float]:
    """Median over repetitions, with the lowest and the highest.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    values = np.asarray(values, dtype=np.float64)
    return {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}


def latency(milliseconds: Float) -> dict[str, Any]:
    """Mean and quantiles over rows of times ``(R, N)``, each as the median over repetitions."""
    found = {"mean": spread(milliseconds.mean(axis=1))}
    return found | {f"p{100 * q:g}": spread(np.quantile(milliseconds, q, axis=1)) for q in QUANTILES}


def timed_table(table: StageTable, sampled: NDArray[np.int64], times: Mapping[str, Times]) -> StageTable:
    """A table whose costs are milliseconds, medians over repetitions.

    A row that was not timed takes the times of a timed one that is nearest in length.

    Args:
        table: all rows.
        sampled: positions of those that were timed.
        times: of its tiers.
    """
    filled = {}
    for tier in dict.fromkeys(stage.tier for stage in table.stages):
        median = np.median(times[tier].rows, axis=0, keepdims=True)
        near = nearest(table.lengths[tier], sampled) if tier in table.lengths else np.arange(len(table)) % len(sampled)
        near[sampled] = np.arange(len(sampled))
        filled[tier] = Times(median[:, near], times[tier].processor)
    milliseconds = stage_times(table, filled)[0]
    return dataclasses.replace(table, macs=milliseconds, decide_macs=milliseconds)


def nearest(lengths: NDArray[np.int64], sampled: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every row ``(M,)`` which of the sampled ones ``(N,)`` is nearest to it in length.

    Of several at the same distance they take turns, so that no single one stands for many.

    Example:
        >>> nearest(np.array([3, 9, 4, 3, 8]), np.array([0, 1])).tolist()
        [0, 1, 0, 0, 1]
    """
    order = np.argsort(lengths[sampled], kind="stable")
    known = lengths[sampled][order]
    after = np.searchsorted(known, lengths).clip(max=len(known) - 1)
    before = (after - 1).clip(min=0)
    closer = np.where(lengths - known[before] <= known[after] - lengths, known[before], known[after])
    first, count = np.searchsorted(known, closer), np.searchsorted(known, closer, "right")
    turn = np.arange(len(lengths)) % (count - first)
    found: NDArray[np.int64] = order[first + turn]
    return found
