"""Paired bootstrap: every quantity is recomputed on the same resamples of rows, so differences are paired too."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from dial.stages.metrics.metrics import Metric
from dial.stages.table import StageTable
from dial.tradeoff.curve import ROUNDING
from dial.tradeoff.paths import Path, row_statistics, units_of
from dial.tradeoff.random_routing import RandomNodes, RandomPath
from dial.tradeoff.taken import Taken, super_alone

CHUNK = 1_500_000  # weights held at once
Interval = tuple[float, float]


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


class Nodes:
    """The points of a path at which its quality can change, ready to be re-weighted.

    Between them only rows move whose answers do not differ, so quality is constant and cost goes up: no target has
    its cheapest point, and no area its bend, anywhere else. A tenth of the rows or so is left.

    Args:
        path: of the split that is resampled.
        statistics: ``(N, S, K)``.
    """

    def __init__(self, path: Path, statistics: np.ndarray) -> None:
        events, applied = path.events, path.applied
        change = statistics[events.row, events.after] - statistics[events.row, events.before]
        cost = path.table.macs[events.row, events.after] - path.table.macs[events.row, events.before]
        matters = (np.abs(change).max(axis=1, initial=0) > 0) | (cost < 0)
        group = np.repeat(np.arange(1, len(applied)), np.diff(applied))
        after = np.unique(group[matters])  # points reached by a step that changes something
        self.points = np.unique(np.concatenate([[0], after - 1, after, [len(applied) - 1]])).astype(np.int64)
        node = np.searchsorted(self.points, group)
        rows = np.arange(len(statistics))
        self.shape = (len(self.points), len(rows))
        index = (np.concatenate([np.zeros(len(rows), np.int64), node]), np.concatenate([rows, events.row]))
        self._sums = [
            self._matrix(index, statistics[rows, events.start, k], change[:, k]) for k in range(change.shape[1])
        ]
        self._macs = self._matrix(index, path.table.macs[rows, events.start], cost)

    def _matrix(self, index: tuple[np.ndarray, np.ndarray], first: np.ndarray, change: np.ndarray) -> csr_array:
        values = np.concatenate([first, change])
        used = values != 0
        return csr_array((values[used], (index[0][used], index[1][used])), shape=self.shape)

    def evaluate(self, metric: Metric, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quality and mean cost at every node, both ``(M, b)``, under weights ``(N, b)``."""
        sums = np.stack([np.cumsum(matrix @ weights, axis=0) for matrix in self._sums], axis=-1)
        return metric.value(sums), np.cumsum(self._macs @ weights, axis=0) / weights.sum(axis=0)


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
        chosen: per path and target, speed-up of the point chosen again on each resample, ``(T, B)``.
        areas: per path, area under quality over cost, ``(B,)``.
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
    paths: Mapping[str, Path | RandomPath],
    targets: Sequence[float] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Resample rows and recompute all decisions and all paths on each resample.

    Args:
        table: rows of one split.
        metric: an additive metric.
        decisions: what is done with the rows, by name.
        paths: curves on which the cheapest point for each target is chosen again (the in-sample choice) and areas
            are measured.
        targets: shares of the Super's quality.
        resamples: B.
        seed: of the resampling.

    Raises:
        ValueError: the metric is not additive, so it has no sums to re-weight.
    """
    statistics = row_statistics(table, metric)
    rows = np.arange(len(table))
    taken, which = _distinct({**decisions, "super": super_alone(table)})
    picked = np.stack([each.pick(statistics) for each in taken])  # (D, N, K)
    costs = np.stack([*(each.macs for each in taken), table.macs_reference])
    shared, path_of = _distinct_paths(paths)
    nodes = [
        RandomNodes(path, statistics) if isinstance(path, RandomPath) else Nodes(path, statistics) for path in shared
    ]
    columns = np.concatenate([picked.transpose(0, 2, 1).reshape(-1, len(rows)), costs])
    qualities, macs, chosen, areas = [], [], [], []
    for weights in resample_weights(units_of(table), resamples, seed):
        sums = columns @ weights
        split = len(taken) * statistics.shape[2]
        quality = metric.value(sums[:split].reshape(len(taken), statistics.shape[2], -1).transpose(0, 2, 1))
        cost = sums[split:] / weights.sum(axis=0)
        qualities.append(quality)
        macs.append(cost)
        along = [node.evaluate(metric, weights) for node in nodes]
        best, alone = quality[which["super"]], cost[which["super"]]
        chosen.append([_choose_again(q, m, best, alone, cost[-1], targets) for q, m in along])
        areas.append([area(q, m) for q, m in along])
    quality, cost = np.concatenate(qualities, axis=1), np.concatenate(macs, axis=1)
    result = Resampled(cost[-1])
    result.quality = {key: quality[index] for key, index in which.items()}
    result.macs = {key: cost[index] for key, index in which.items()}
    if nodes:
        speedups, surfaces = np.concatenate(chosen, axis=-1), np.concatenate(areas, axis=-1)
        result.chosen = {key: speedups[index] for key, index in path_of.items()}
        result.areas = {key: surfaces[index] for key, index in path_of.items()}
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


def _distinct(decisions: Mapping[str, Taken]) -> tuple[list[Taken], dict[str, int]]:
    """Equal decisions once, and where each name's is."""
    seen: dict[bytes, int] = {}
    distinct: list[Taken] = []
    which: dict[str, int] = {}
    for key, taken in decisions.items():
        what = taken.chances if taken.stages is None else taken.stages.astype(np.int16)
        mark = hashlib.blake2b(np.ascontiguousarray(what).tobytes() + taken.macs.tobytes()).digest()
        position = seen.setdefault(mark, len(distinct))
        if position == len(distinct):
            distinct.append(taken)
        which[key] = position
    return distinct, which


def _distinct_paths(
    paths: Mapping[str, Path | RandomPath],
) -> tuple[list[Path | RandomPath], dict[str, int]]:
    """Paths with the same events in the same order once (softmax, margin and entropy of two classes are one path)."""
    seen: dict[bytes, int] = {}
    distinct: list[Path | RandomPath] = []
    which: dict[str, int] = {}
    for key, path in paths.items():
        mark = b"random"
        if isinstance(path, Path):
            mark = np.concatenate([path.applied, path.events.row, path.events.after]).astype(np.int64).tobytes()
        position = seen.setdefault(mark, len(distinct))
        if position == len(distinct):
            distinct.append(path)
        which[key] = position
    return distinct, which
