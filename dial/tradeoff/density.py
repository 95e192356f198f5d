"""Densities of a score on rows that a stage gets right and wrong, and where they cross (E-LANG, Fig. 3)."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

GRID = 1024
MANY_ROWS = 8192
"""Of more, a kernel stands on each of the many narrow bins that rows are counted in."""
AT_ONCE = 32
"""Points of the grid at which kernels are summed together."""
FINER = 4, 1024
"""Bins in a bandwidth, and from one point of the grid to the next, are at least the first; the latter at most the
second."""
REACH = 8.0  # bandwidths beyond which a kernel adds nothing
TAIL = 3.0  # bandwidths beyond the extreme scores


@dataclass(frozen=True)
class Densities:
    """Gaussian kernel densities of one score, each of area 1.

    Attributes:
        grid: scores at which the densities are given, ``(G,)``.
        right: density of the rows that the stage gets right, ``(G,)``.
        wrong: density of the rows that it gets wrong, ``(G,)``.
        crossings: scores between the two modes at which right overtakes wrong.
        status: "one", "several" or "none" crossings, or why there are no densities.
    """

    grid: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    crossings: tuple[float, ...]
    status: str

    @property
    def threshold(self) -> float | None:
        """The crossing where there is exactly one."""
        return self.crossings[0] if self.status == "one" else None


def densities(score: np.ndarray, right: np.ndarray) -> Densities:
    """Estimate both densities and look for the crossing between their modes.

    A crossing counts where the wrong rows' density is the higher one below it, as a threshold needs it: wrong
    answers are
    sent on, right ones stay. Bandwidths follow Scott's rule. Where a score has a wall (a probability of one), the
    kernel spills over it; only what lies between the modes matters here.

    Args:
        score: ``(N,)``, higher = surer.
        right: ``(N,)``, whether the stage's own answer is right.
    """
    empty = np.zeros(0)
    groups = [score.take(np.flatnonzero(rows)) for rows in (right, ~right)]  # faster than by a mask
    for name, group in zip(("right", "wrong"), groups, strict=True):
        if len(group) < 2 or np.ptp(group) <= 1e-12 * max(1.0, float(np.abs(group).max())):
            return Densities(
                empty, empty, empty, (), f"no density: {len(group)} {name} rows, {len(np.unique(group))} scores"
            )
    widths = [float(len(group) ** -0.2 * group.std(ddof=1)) for group in groups]
    reach = TAIL * max(widths)
    grid = np.linspace(score.min() - reach, score.max() + reach, GRID)
    values = [_density(group, width, grid) for group, width in zip(groups, widths, strict=True)]
    crossings = _crossings(grid, values[0], values[1])
    status = {0: "none", 1: "one"}.get(len(crossings), "several")
    return Densities(grid, values[0], values[1], crossings, status)


def _density(score: np.ndarray, width: float, grid: np.ndarray) -> np.ndarray:
    """Density of scores ``(N,)`` at evenly spaced points ``(G,)`` by kernels of a bandwidth.

    Where rows are very many they are counted in bins, a whole number of which lies between two points, and the kernel
    goes over the bins.
    """
    if len(score) <= MANY_ROWS:
        scale = np.sqrt(0.5) / width
        scaled, total = score * scale, np.empty(len(grid))
        for begin in range(0, len(grid), AT_ONCE):
            points = slice(begin, begin + AT_ONCE)
            distance = (grid[points] * scale)[:, None] - scaled
            distance *= distance
            total[points] = np.exp(np.negative(distance, out=distance), out=distance).sum(axis=1)
        return total / (len(score) * width * np.sqrt(2 * np.pi))
    step = grid[1] - grid[0]
    finer = int(np.clip(np.ceil(FINER[0] * step / width), *FINER))
    places = np.rint((score - grid[0]) * (finer / step)).astype(np.int32)
    counts = np.bincount(places, minlength=finer * (len(grid) - 1) + 1) * (finer / (step * len(score)))
    radius = int(REACH * width * finer / step + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) * step / (finer * width)) ** 2)
    around = sliding_window_view(np.pad(counts, radius), len(kernel))[::finer]  # at the points of the grid alone
    return np.einsum("gk,k->g", around, kernel / kernel.sum())


def _crossings(grid: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> tuple[float, ...]:
    """Zeros of right − wrong from the wrong rows' mode up to the right rows' mode, by linear interpolation."""
    low, high = int(wrong.argmax()), int(right.argmax())
    if low >= high:
        return ()
    gap = (right - wrong)[low : high + 1]
    inside = grid[low : high + 1]
    change = np.flatnonzero((gap[:-1] < 0) != (gap[1:] < 0))
    share = gap[change] / (gap[change] - gap[change + 1])
    return tuple(float(x) for x in inside[change] + share * (inside[change + 1] - inside[change]))
