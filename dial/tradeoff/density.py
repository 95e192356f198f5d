"""Densities of a score on rows that a stage gets right and wrong, and where they cross (E-LANG, Fig. 3)."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import gaussian_kde

GRID = 1024
BINS = 2048
"""In which more rows than four times as many are counted, each bin far narrower than their bandwidth."""
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
    groups = [score[right], score[~right]]
    for name, group in zip(("right", "wrong"), groups, strict=True):
        if len(group) < 2 or np.ptp(group) <= 1e-12 * max(1.0, float(np.abs(group).max())):
            return Densities(
                empty, empty, empty, (), f"no density: {len(group)} {name} rows, {len(np.unique(group))} scores"
            )
    kernels = [_kernel(group) for group in groups]
    reach = TAIL * max(float(np.sqrt(kernel.covariance[0, 0])) for kernel in kernels)
    grid = np.linspace(score.min() - reach, score.max() + reach, GRID)
    values = [kernel(grid) for kernel in kernels]
    crossings = _crossings(grid, values[0], values[1])
    status = {0: "none", 1: "one"}.get(len(crossings), "several")
    return Densities(grid, values[0], values[1], crossings, status)


def _kernel(score: np.ndarray) -> gaussian_kde:
    """Kernels on scores ``(N,)``; where these are very many, on the middles of bins, weighted by their rows."""
    if len(score) <= 4 * BINS:
        return gaussian_kde(score)
    counts, edges = np.histogram(score, BINS)
    filled = counts > 0
    middles, weights = ((edges[:-1] + edges[1:]) / 2)[filled], counts[filled] / len(score)
    # Scott's rule for the rows: SciPy's variance of weighted points is larger, the fewer bins hold most of the rows.
    width = len(score) ** -0.2 * np.sqrt(score.var(ddof=1) / np.cov(middles, aweights=weights))
    return gaussian_kde(middles, bw_method=float(width), weights=weights)


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
