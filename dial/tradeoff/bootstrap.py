"""Paired bootstrap: every quantity is recomputed on the same resamples of rows, so differences are paired too."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from dial.stages.metrics.base import Metric
from dial.stages.table import StageTable
from dial.tradeoff.area import ROUNDING, area_to
from dial.tradeoff.curve import Curve, Reweighted
from dial.tradeoff.taken import Taken, row_statistics, summed, super_alone, units_of

CHUNK = 1_500_000  # weights held at once
BLOCKS = 8192
"""Units that are drawn at most. Of more, random ones are joined into blocks of equal size and drawn together: sums of
blocks vary as those of rows do, and the spread is known to 1 %, where 1,000 resamples know it to 2 %."""
MANY_POINTS = 16_384
"""Of a curve, above which a few stand for all."""
NODES, NODES_AT_TARGET, WINDOW = 512, 128, 0.03
"""Those that resamples look at: evenly over its costs, and for each target so many more within this share
of the costs around the point that is the cheapest on the rows themselves."""
Interval = tuple[float, float]
Item = TypeVar("Item")


def drawn_units(table: StageTable) -> np.ndarray:
    """Which rows are drawn together, ``(N,)`` from 0: those of one group, or of one of :data:`BLOCKS`."""
    units = units_of(table)
    count = int(units.max()) + 1
    if count <= BLOCKS:
        return units
    blocks: np.ndarray = (np.random.default_rng(0).permutation(count) % BLOCKS)[units]
    return blocks


def resample_weights(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Multinomial weights in blocks ``(U, b)``: how often each unit is in each of ``resamples`` samples of U.

    Args:
        count: U.
        resamples: how many samples in all.
        seed: of numpy's generator.
    """
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // count)
    for begin in range(0, resamples, size):
        block = min(size, resamples - begin)
        drawn = rng.integers(0, count, (count, block))
        drawn *= block
        drawn += np.arange(block)
        yield np.bincount(drawn.ravel(), minlength=count * block).reshape(count, block).astype(np.float64)


def nodes_of(curve: Curve, metric: Metric, targets: Sequence[float]) -> np.ndarray:
    """Points that stand for all of a curve with very many, from the first to the last.

    Args:
        curve: on the rows themselves.
        metric: that targets are shares of.
        targets: shares of the Super's quality.
    """
    costs = np.maximum.accumulate(curve.macs)
    span, quality = costs[-1] - costs[0], curve.quality_by(metric.name)
    wanted = [np.linspace(costs[0], costs[-1], NODES)]
    for target in targets:
        first = costs[int(np.argmax(quality >= target * quality[-1] - 1e-12))]
        wanted.append(np.linspace(first - WINDOW * span, first + WINDOW * span, NODES_AT_TARGET + 1))
    found = np.searchsorted(costs, np.concatenate(wanted))
    return np.unique(np.concatenate([[0], np.minimum(found, len(costs) - 1), [len(costs) - 1]]))


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


@dataclass
class Resampled:
    """Bootstrap values, all over the same resamples ``B``.

    Attributes:
        reference: mean cost of the reference model, ``(B,)``.
        quality: per decision ``(B,)``; the decision "super" is always there.
        macs: per decision ``(B,)``.
        chosen: per curve and target, speed-up of the point chosen again on each resample, ``(T, B)``.
        areas: per curve, area under quality over cost, ``(B,)``; up to the dearest cost of a curve ``random``, if any.
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
    statistics, units = row_statistics(table, metric), drawn_units(table)
    sizes = np.bincount(units)
    drawn = [weights.astype(np.uint16) for weights in resample_weights(len(sizes), resamples, seed)]
    taken, which = _distinct({**decisions, "super": super_alone(table)}, _mark)
    picked = np.stack([summed(each.pick(statistics), units) for each in taken])  # (D, U, K)
    costs = np.stack([*(summed(each.macs, units) for each in taken), summed(table.macs_reference, units)])
    columns = np.concatenate([picked.transpose(0, 2, 1).reshape(-1, len(sizes)), costs])
    sums = np.concatenate([columns @ weights.astype(np.float64) for weights in drawn], axis=1)
    split = len(taken) * statistics.shape[2]
    quality = metric.value(sums[:split].reshape(len(taken), statistics.shape[2], -1).transpose(0, 2, 1))
    cost = sums[split:] / np.concatenate([sizes @ weights for weights in drawn])
    result = Resampled(cost[-1])
    result.quality = {key: quality[index] for key, index in which.items()}
    result.macs = {key: cost[index] for key, index in which.items()}
    # Softmax, margin and entropy of two classes are one curve; a score that is known later costs more, and is another.
    shared, curve_of = _distinct(curves, lambda curve: curve.fingerprint + str(id(curve.table)).encode())
    end = np.full(resamples, np.inf)  # the dearest cost of random routing, which comes first
    for index in sorted(range(len(shared)), key=lambda index: index != curve_of.get("random")):
        points = nodes_of(shared[index], metric, targets) if len(shared[index]) > MANY_POINTS else None
        evaluate = shared[index].reweighted(statistics, units, points)  # large, so one curve's is held at a time
        chosen, areas, last = _along(evaluate, metric, drawn, result, targets, end)
        end = last if index == curve_of.get("random") else end
        result.chosen |= {key: chosen for key, place in curve_of.items() if place == index}
        result.areas |= {key: areas for key, place in curve_of.items() if place == index}
    return result


def _along(
    evaluate: Reweighted,
    metric: Metric,
    drawn: Sequence[np.ndarray],
    result: Resampled,
    targets: Sequence[float],
    end: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One curve on all resamples: speed-ups chosen again ``(T, B)``, areas up to ``end`` and the last cost ``(B,)``."""
    parts, begin = [], 0
    best, alone = result.quality["super"], result.macs["super"]
    for weights in drawn:
        some = slice(begin, begin + weights.shape[1])
        quality, macs = evaluate(metric, weights.astype(np.float64))
        chosen = _choose_again(quality, macs, best[some], alone[some], result.reference[some], targets)
        parts.append((chosen, area_to(quality, macs, end[some]), macs[-1]))
        begin = some.stop
    chosen, areas, last = (np.concatenate(values, axis=-1) for values in zip(*parts, strict=True))
    return chosen, areas, last


def _choose_again(
    quality: np.ndarray,
    macs: np.ndarray,
    super_quality: np.ndarray,
    alone: np.ndarray,
    reference: np.ndarray,
    targets: Sequence[float],
) -> np.ndarray:
    """Speed-up of the cheapest point for each target, the Super alone among them, ``(T, b)``.

    Where the Super's quality is not above zero there is nothing to keep, and it answers alone, as it does on the rows
    themselves.
    """
    columns = np.arange(quality.shape[1])
    macs = np.concatenate([macs[:-1], alone[None]])
    least = [np.where(super_quality > 0, target * super_quality, np.inf) for target in targets]
    rows = [reference / macs[cheapest(quality, macs, kept), columns] for kept in least]
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
    what = (taken.chances if taken.stages is None else taken.stages, taken.which)
    parts = (b"" if values is None else np.ascontiguousarray(values).tobytes() for values in what)
    return hashlib.blake2b(b"|".join([*parts, repr((taken.left_out, taken.score)).encode()])).digest()
