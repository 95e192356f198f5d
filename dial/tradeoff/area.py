"""Area under a curve: how much better than random routing, and how near to the oracle, it is over all costs."""

import numpy as np

from dial.tradeoff.curve import Curve

ROUNDING = 1e-9  # share of an area that is rounding error, where nothing is gained


def normalised_area(curve: Curve, random: Curve, oracle: Curve, metric: str | None = None) -> float | None:
    """Return where a curve lies between random routing (0) and the oracle (1): (A - A_random) / (A_oracle - A_random).

    ``A`` is the area under quality over mean MACs, between the costs of always stopping at once and of always going on
    at random; a curve by scores that only a finished answer tells goes on beyond that, which counts for nothing.

    Returns:
        The share, or None where it is undefined: the last stage is not better than the first, or the areas coincide.
    """
    metric = metric or next(iter(curve.quality))
    if not oracle.quality[metric][-1] > oracle.quality[metric][0]:
        return None
    end = float(random.macs[-1])
    area, area_random, area_oracle = (_area(each, metric, end) for each in (curve, random, oracle))
    if not area_oracle - area_random > ROUNDING * abs(area_oracle):
        return None
    return (area - area_random) / (area_oracle - area_random)


def area_to(quality: np.ndarray, macs: np.ndarray, end: np.ndarray | float) -> np.ndarray:
    """Area under quality over rising cost by trapezoids, up to a cost, ``(M, ...), (M, ...), (...) -> (...)``.

    >>> area_to(np.array([0.0, 1.0]), np.array([0.0, 4.0]), 2.0).tolist()
    0.5
    """
    if not np.any(macs[-1] > end + ROUNDING * np.abs(end)):
        return np.asarray(np.trapezoid(quality, macs, axis=0))
    steps, inside = np.diff(macs, axis=0), np.diff(np.minimum(macs, end), axis=0)
    share = np.divide(inside, steps, out=np.zeros_like(steps), where=steps != 0)
    return np.asarray((inside * (quality[:-1] + share / 2 * np.diff(quality, axis=0))).sum(axis=0))


def _area(curve: Curve, metric: str, end: float) -> float:
    """Return the area under quality over mean MACs up to a cost."""
    known = np.isfinite(curve.quality[metric])
    return float(area_to(curve.quality[metric][known], curve.macs[known], end))
