"""Do the rows at hand look like the rows that a point was chosen on? If not, what it promised may not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dial.stages.table import StageTable

FALSE_ALARMS = 0.003
"""Chance of a word about rows of one kind, in all questions together."""
SMALLEST = 0.05
"""Differences of distribution functions or shares below this are told apart in many rows, and mean nothing."""

FEWEST = 20
"""Rows below which nothing is said of them."""


@dataclass(frozen=True)
class Visits:
    """What is known of rows that came to the first stage that runs.

    Attributes:
        score: ``(N,)`` of the rule there, or None where it has no score. Of rows that went on it need not be known:
            they may have any score below the threshold.
        stayed: ``(N,)`` whether a row was answered there.
        length: ``(N,)`` its tokens, or None where they are not known.
    """

    stayed: np.ndarray
    score: np.ndarray | None = None
    length: np.ndarray | None = None


def differences(calibration: Visits, here: Visits) -> dict[str, dict[str, float]]:
    """What differs between calibration rows and others, beyond chance.

    Distributions are compared by the two-sample test of Kolmogorov and Smirnov, shares by Fisher's, each at a third of
    :data:`FALSE_ALARMS`. Scores are compared where rows stay, as the others' are not always known.

    Args:
        calibration: the rows that the point was chosen on.
        here: the rows that it is used on.

    Returns:
        By ``deferred``, ``length`` and ``score`` the two shares or medians, ``there`` and ``here``.
    """
    from scipy.stats import fisher_exact  # a second of imports, for calibration rows only

    found: dict[str, dict[str, float]] = {}
    if min(len(calibration.stayed), len(here.stayed)) < FEWEST:
        return found
    level = FALSE_ALARMS / 3
    counts = [[int(v.stayed.sum()), int((~v.stayed).sum())] for v in (calibration, here)]
    deferred = [gone / (kept + gone) for kept, gone in counts]
    if abs(deferred[0] - deferred[1]) > SMALLEST and fisher_exact(counts).pvalue < level:
        found["deferred"] = {"there": deferred[0], "here": deferred[1]}
    if calibration.length is not None and here.length is not None and _apart(calibration.length, here.length, level):
        found["length"] = {"there": float(np.median(calibration.length)), "here": float(np.median(here.length))}
    if calibration.score is not None and here.score is not None:
        scores = (calibration.score, here.score)
        known = [
            np.where(v.stayed, np.nan_to_num(score), -np.inf)
            for v, score in zip((calibration, here), scores, strict=True)
        ]
        if _apart(known[0], known[1], level) and all(v.stayed.any() for v in (calibration, here)):
            medians = [float(np.median(v[np.isfinite(v)])) for v in known]
            found["score"] = {"there": medians[0], "here": medians[1]}
    return found


def _apart(first: np.ndarray, second: np.ndarray, level: float) -> bool:
    from scipy.stats import ks_2samp

    # Ranks stand for the values, as the test sorts them only: minus infinity is a value like any other then.
    _, ranks = np.unique(np.concatenate([first, second]), return_inverse=True)
    test = ks_2samp(ranks[: len(first)], ranks[len(first) :], method="asymp")
    return bool(test.statistic > SMALLEST and test.pvalue < level)


def visits_of(table: StageTable, score: str, threshold: float, stage: int = 0) -> Visits:
    """What a stage sees of the rows of a table, all of which come to it.

    Args:
        table: rows of one split.
        score: what decides, one that the table holds.
        threshold: of the stage.
        stage: its position, the first that runs.
    """
    values = table.scores[score][:, stage]
    return Visits(values >= threshold, values, table.lengths.get(table.stages[stage].tier))


def sentence(found: Mapping[str, Mapping[str, float]], what: str = "these rows") -> str:
    """The differences in one line; empty where there are none.

    Example:
        >>> sentence({"deferred": {"there": 0.17, "here": 0.41}}).split(";")[0]
        'these rows are not like the calibration rows: 41 % go on from the first stage, 17 % there'
    """
    words = {
        "deferred": lambda v: f"{100 * v['here']:.0f} % go on from the first stage, {100 * v['there']:.0f} % there",
        "length": lambda v: f"{v['here']:.0f} tokens in the median, {v['there']:.0f} there",
        "score": lambda v: f"scores of {v['here']:.3g} in the median where rows stay, {v['there']:.3g} there",
    }
    if not found:
        return ""
    parts = "; ".join(words[name](values) for name, values in found.items())
    return (
        f"{what} are not like the calibration rows: {parts}; what was promised may not hold (`dial calibrate` chooses "
        "points on rows like these)"
    )
