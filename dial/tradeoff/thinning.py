"""Thinning: few points of a curve, between which straight lines stay close to it."""

from typing import TypeVar

import numpy as np

from dial.tradeoff.curve import Curve

AnyCurve = TypeVar("AnyCurve", bound=Curve)


def thin(curve: AnyCurve, points: int = 2000, tolerance: float = 1e-4) -> AnyCurve:
    """Return at most ``points`` of a curve's points, between which straight lines stay within ``tolerance`` of it.

    Quality is compared at the mean cost of every point left out, for every metric. A curve with few enough points comes
    back whole. Where ``points`` cannot keep the tolerance, the smallest that they can is used (to a few per cent).
    Grid points of a metric that is not additive are always kept.

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
