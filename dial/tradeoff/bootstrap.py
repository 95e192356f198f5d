"""Paired bootstrap: every quantity is recomputed on the same resamples of rows, so differences are paired too."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from dial.stages.metrics.base import Metric
from dial.stages.table import StageTable
from dial.tradeoff.curve import ROUNDING, Curve
from dial.tradeoff.taken import Taken, row_statistics, super_alone, units_of

CHUNK = 1_500_000  # weights held at once
Interval = tuple[float, float]
Item = TypeVar("Item")


def resample_weights(units: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Multinomial weights in blocks ``(N, b)``: how often each row is in each of ``resamples`` samples of N.

    Args:
        units: ``(N,)``, rows with equal values are drawn together (questions about one paragraph).
        resamples: how many samples in all.
        seed: of numpy's generator.
    """
    rng = np.random.default_rng(seed)
    _, unit = np.unique(units, return_inverse=True)
    count = int(unit.max()) + 1
    size = max(1, CHUNK // count)
    for begin in range(0, resamples, size):
        block = min(size, resamples - begin)
        drawn = rng.integers(0, count, (count, block))
        drawn *= block
        drawn += np.arange(block)
        weights = np.bincount(drawn.ravel(), minlength=count * block).reshape(count, block).astype(np.float64)
        yield weights if count == len(unit) and (unit[:-1] < unit[1:]).all() else weights[unit]


def percentile_interval(values: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Two-sided percentile interval of resampled values; None where a value is not a number.

    Example:
        >>> [round(end, 6) for end in percentile_interval(np.arange(1001.0), confidence=0.9)]
        [50.0, 950.0]
    """
    if not len(values) or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def cheapest(quality: np.ndarray, macs: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Index of the cheapest point with the wanted quality, else the last; ``(M, b), (M, b), (b,) -> (b,)``."""
    allowed = quality >= least - 1e-12
    allowed[-1] = True
    return np.where(allowed, macs, np.inf).argmin(axis=0)


def area(quality: np.ndarray, macs: np.ndarray) -> np.ndarray:
    """Area under quality over cost by trapezoids, ``(M, b), (M, b) -> (b,)``."""
    return np.trapezoid(quality, macs, axis=0)


@dataclass
class Resampled:
    """Bootstrap values, all over the same resamples ``B``.

    Attributes:
        reference: mean cost of the reference model, ``(B,)``.
        quality: per decision ``(B,)``; the decision "super" is always there.
        macs: per decision ``(B,)``.
        chosen: per curve and target, speed-up of the point chosen again on each resample, ``(T, B)``.
        areas: per curve, area under quality over cost, ``(B,)``.
    """

    reference: np.ndarray
    quality: dict[str, np.ndarray] = field(default_factory=dict)
    macs: dict[str, np.ndarray] = field(default_factory=dict)
    chosen: dict[str, np.ndarray] = field(default_factory=dict)
    areas: dict[str, np.ndarray] = field(default_factory=dict)

    def speedup(self, key: str) -> np.ndarray:
        """Ratio of mean costs, reference over decision, ``(B,)``."""
        return self.reference / self.macs[key]

    def kept(self, key: str) -> np.ndarray:
        """Quality relative to the Super's, ``(B,)``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.quality[key] / self.quality["super"]

    def normalised_area(self, key: str) -> np.ndarray:
        """(A − A_random) / (A_oracle − A_random), ``(B,)``; not a number where the oracle gains nothing."""
        gain = self.areas["oracle"] - self.areas["random"]
        with np.errstate(divide="ignore", invalid="ignore"):
            some = gain > ROUNDING * np.abs(self.areas["oracle"])
            return np.where(some, (self.areas[key] - self.areas["random"]) / gain, np.nan)


def bootstrap(
    table: StageTable,
    metric: Metric,
    decisions: Mapping[str, Taken],
    curves: Mapping[str, Curve],
    targets: Sequence[float] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Resample rows and recompute all decisions and all curves on each resample.

    Args:
        table: rows of one split.
        metric: an additive metric.
        decisions: what is done with the rows, by name.
        curves: on which the cheapest point for each target is chosen again (the in-sample choice) and areas
            are measured.
        targets: shares of the Super's quality.
        resamples: B.
        seed: of the resampling.

    Raises:
        ValueError: the metric is not additive, so it has no sums to re-weight.
    """
    statistics = row_statistics(table, metric)
    rows = np.arange(len(table))
    taken, which = _distinct({**decisions, "super": super_alone(table)}, _mark)
    picked = np.stack([each.pick(statistics) for each in taken])  # (D, N, K)
    costs = np.stack([*(each.macs for each in taken), table.macs_reference])
    # Softmax, margin and entropy of two classes are one curve.
    shared, curve_of = _distinct(curves, lambda curve: curve.fingerprint)
    along = [curve.reweighted(statistics) for curve in shared]
    columns = np.concatenate([picked.transpose(0, 2, 1).reshape(-1, len(rows)), costs])
    qualities, macs, chosen, areas = [], [], [], []
    for weights in resample_weights(units_of(table), resamples, seed):
        sums = columns @ weights
        split = len(taken) * statistics.shape[2]
        quality = metric.value(sums[:split].reshape(len(taken), statistics.shape[2], -1).transpose(0, 2, 1))
        cost = sums[split:] / weights.sum(axis=0)
        qualities.append(quality)
        macs.append(cost)
        points = [evaluate(metric, weights) for evaluate in along]
        best, alone = quality[which["super"]], cost[which["super"]]
        chosen.append([_choose_again(q, m, best, alone, cost[-1], targets) for q, m in points])
        areas.append([area(q, m) for q, m in points])
    quality, cost = np.concatenate(qualities, axis=1), np.concatenate(macs, axis=1)
    result = Resampled(cost[-1])
    result.quality = {key: quality[index] for key, index in which.items()}
    result.macs = {key: cost[index] for key, index in which.items()}
    if along:
        speedups, surfaces = np.concatenate(chosen, axis=-1), np.concatenate(areas, axis=-1)
        result.chosen = {key: speedups[index] for key, index in curve_of.items()}
        result.areas = {key: surfaces[index] for key, index in curve_of.items()}
    return result


def _choose_again(
    quality: np.ndarray,
    macs: np.ndarray,
    super_quality: np.ndarray,
    alone: np.ndarray,
    reference: np.ndarray,
    targets: Sequence[float],
) -> np.ndarray:
    """Speed-up of the cheapest point for each target, the Super alone among them, ``(T, b)``."""
    columns = np.arange(quality.shape[1])
    macs = np.concatenate([macs[:-1], alone[None]])
    rows = [reference / macs[cheapest(quality, macs, target * super_quality), columns] for target in targets]
    return np.stack(rows) if rows else np.zeros((0, len(columns)))


def _distinct(items: Mapping[str, Item], mark: Callable[[Item], bytes]) -> tuple[list[Item], dict[str, int]]:
    """Items of equal marks once, and where each name's is."""
    seen: dict[bytes, int] = {}
    distinct: list[Item] = []
    which: dict[str, int] = {}
    for key, item in items.items():
        which[key] = seen.setdefault(mark(item), len(distinct))
        if which[key] == len(distinct):
            distinct.append(item)
    return distinct, which


def _mark(taken: Taken) -> bytes:
    """The same for decisions that do and cost the same."""
    what = taken.chances if taken.stages is None else taken.stages.astype(np.int16)
    return hashlib.blake2b(np.ascontiguousarray(what).tobytes() + taken.macs.tobytes()).digest()
