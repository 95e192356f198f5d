"""Rules: which stage an example stops at, as one dial is turned from "stop at once" to "always go on".

Every rule has the property that turning the dial up never sends an example back to an earlier stage. Then the whole
trade-off is a sorted list of *events*, (dial, example, stage before, stage after), and everything that depends on the
stages taken is a cumulative sum over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dial.stages.table import StageTable
from dial.tradeoff.ordering import ascending


@dataclass(frozen=True, eq=False)
class Events:
    """Moves of examples to later stages, sorted by dial.

    An event is in effect when the dial is *above* its ``dial``: an example whose score equals the threshold stays.

    Attributes:
        start: ``(N,)`` stage of each example when the dial is at minus infinity.
        dial: ``(E,)`` float64, ascending.
        row: ``(E,)`` position of the example in the table.
        before: ``(E,)`` stage left.
        after: ``(E,)`` stage entered, later than ``before``.
    """

    start: np.ndarray
    dial: np.ndarray
    row: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def stages(self, dial: float) -> np.ndarray:
        """Return the stage ``(N,)`` of every example with the dial at this value."""
        count = int(np.searchsorted(self.dial, dial, side="left"))
        taken = self.start.astype(np.intp)
        # Assigning in order would do, as an example's events are in order; NumPy promises that only for the maximum.
        np.maximum.at(taken, self.row[:count], self.after[:count].astype(np.intp))
        return taken


def threshold_events(scores: np.ndarray) -> Events:
    """Stop at the first stage whose score reaches the dial, else at the last stage.

    Args:
        scores: ``(N, S)``, higher = surer, comparable across stages. The last column is not read.

    Raises:
        ValueError: if a score that could decide is NaN.

    Example:
        >>> events = threshold_events(np.array([[0.9, 0.0], [0.4, 0.0]]))
        >>> events.row, events.stages(0.4), events.stages(0.41)
        (array([1, 0], dtype=int32), array([0, 0]), array([0, 1]))
    """
    rows, stages = scores.shape
    deciding = np.ascontiguousarray(scores[:, :-1].T, dtype=np.float64)
    if np.isnan(deciding).any():
        stage, row = np.argwhere(np.isnan(deciding))[0]
        raise ValueError(
            f"`scores` must be numbers, but row {row} has NaN at stage {stage}. Compute them from finite logits."
        )
    # With the dial at u an example is at the first stage whose score is >= u, that is, whose running maximum is.
    # So it visits exactly the stages at which the running maximum rises, and leaves each at that maximum.
    best = np.maximum.accumulate(deciding, axis=0)
    parts: list[tuple[np.ndarray, ...]] = []
    following = np.full(rows, stages - 1, dtype=np.int16)
    for stage in range(stages - 2, -1, -1):
        leaving = np.flatnonzero(best[stage] > best[stage - 1]) if stage else np.arange(rows)
        before = np.full(len(leaving), stage, dtype=np.int16)
        parts.append((best[stage][leaving], leaving.astype(np.int32), before, following[leaving]))
        following[leaving] = stage
    return _sorted_events(np.zeros(rows, dtype=np.int16), parts)


def patience_events(predictions: np.ndarray, tolerance: float = 0.0) -> Events:
    """Stop once as many consecutive stages as the dial says have repeated their predecessor's answer (PABEE).

    Zhou et al. 2020, "BERT Loses Patience". At patience ``p`` an example stops at the first stage at which the last
    ``p + 1`` stages agree, else at the last stage.

    Args:
        predictions: ``(N, S)`` classes or numbers.
        tolerance: two numbers agree if they differ by less, or not at all.
    """
    return threshold_events(agreement(predictions, tolerance))


def agreement(predictions: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """Return how many stages in a row, up to each, repeated their predecessor's answer; ``(N, S) -> (N, S)`` float64.

    Numbers repeat it if they differ by less than ``tolerance`` (PABEE's rule for regression), or not at all.

    Example:
        >>> agreement(np.array([[0, 1, 1, 1, 0, 0]]))
        array([[0., 0., 1., 2., 0., 1.]])
        >>> agreement(np.array([[2.0, 2.5, 3.0, 3.25]]), tolerance=0.5)
        array([[0., 0., 0., 1.]])
    """
    counts = np.zeros(predictions.shape)
    for stage in range(1, predictions.shape[1]):
        apart = np.abs(predictions[:, stage] - predictions[:, stage - 1])
        same = (apart < tolerance) | (apart == 0)
        counts[:, stage] = np.where(same, counts[:, stage - 1] + 1, 0)
    return counts


def tolerance_of(table: StageTable) -> float:
    """How near two numbers must be to count as one answer, as the table's settings say; classes must be equal."""
    return float(table.settings.get("tolerance") or 0.0)


def check_patience(
    patience: Sequence[int], tolerance: float | None, stages: int, regression: bool, prefix: str = ""
) -> None:
    """Refuse what patience cannot be.

    Args:
        patience: numbers of agreements, each for an operating point of its own.
        tolerance: for regression.
        stages: how many there are.
        regression: whether the task has real-valued labels.
        prefix: of the arguments' names as the user spells them.

    Raises:
        ValueError: a patience that no row can reach, a tolerance for classes, or none for numbers.
    """
    if tolerance is not None and not regression:
        raise ValueError(
            f"`{prefix}tolerance` is for regression, as classes agree or do not, but got {tolerance:g} for "
            "classification; leave it out."
        )
    if patience and regression and tolerance is None:
        raise ValueError(
            f"`{prefix}tolerance` must be given with a patience for regression, whose answers never agree exactly, but "
            "it was left out; give the difference below which two answers agree."
        )
    last = stages - 1
    for value in patience:
        if last < 2:
            raise ValueError(
                f"`{prefix}patience` needs at least three exits, but got {value} for {stages}; leave it out."
            )
        if not 1 <= value <= last:
            raise ValueError(
                f"`{prefix}patience` must be from 1 to {last}, as {stages} exits agree at most {last} times in a row, "
                f"but got {value}."
            )


def oracle_events(table: StageTable, metric: str) -> Events:
    """Spend computation where it helps most, knowing the labels: an upper bound for routing, never a rule to use.

    For two stages: first the examples that only the Super gets right, then those where both are right or both wrong,
    each cheapest first, at last those that only the Swift gets right. For more stages each example moves along the
    upper hull of its own (cost, gain) points, and all moves are ordered by gain per MAC. For real-valued labels the
    gain is the decrease of the squared error. F1 and MCC use the same order as accuracy.

    Returns:
        Events whose dials are 0, 1, 2, …: above each, one more move has been made.
    """
    gain = _gains(table, metric)
    rows, stages = gain.shape
    current, active = np.zeros(rows, dtype=np.intp), np.arange(rows)
    last_slope, last_cost = np.full(rows, np.inf), np.zeros(rows)
    parts: list[tuple[np.ndarray, ...]] = []
    while stages > 1 and len(active):
        here = current[active]
        costs = np.maximum(table.macs[active] - table.macs[active, here][:, None], 1.0)
        slopes = (gain[active] - gain[active, here][:, None]) / costs
        slopes[np.arange(stages) <= here[:, None]] = -np.inf
        target = stages - 1 - np.argmax(slopes[:, ::-1], axis=1)  # the farthest of equals: no stop on a straight line
        picked = np.arange(len(active)), target
        # Along a hull slopes fall; rounding must not put a move of an example before the one that it follows.
        slope = np.minimum(slopes[picked], last_slope[active])
        cost = np.where(slope == last_slope[active], np.maximum(costs[picked], last_cost[active]), costs[picked])
        parts.append((-slope, cost, active, here, target))
        last_slope[active], last_cost[active], current[active] = slope, cost, target
        active = active[target < stages - 1]
    start = np.zeros(rows, dtype=np.int16)
    if not parts:
        return _sorted_events(start, [])
    falling, cost, row, before, after = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((cost, falling))  # stable: an example's earlier move, concatenated earlier, stays before
    moves = (row[order].astype(np.int32), before[order].astype(np.int16), after[order].astype(np.int16))
    return Events(start, np.arange(len(order), dtype=np.float64), *moves)


def _gains(table: StageTable, metric: str) -> np.ndarray:
    """Return how good each stage's answer is, ``(N, S)``; only differences within a row matter."""
    if metric in table.statistics:
        return table.statistics[metric]
    return table.task.gains(table.predictions, table.label)


def replay(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the stage taken by every example: the first whose score reaches its threshold, else the last.

    Reads scores only; labels never reach this function.

    Args:
        scores: ``(N, S)``; the last column is not read.
        thresholds: ``(S - 1,)``, infinities allowed.

    Returns:
        ``(N,)`` stage indices.

    Example:
        >>> replay(np.array([[0.5, 0.1, 0.0], [0.4, 0.8, 0.0]]), np.array([0.5, 0.9]))
        array([0, 2])
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape != (scores.shape[1] - 1,):
        raise ValueError(
            f"`thresholds` must have one value for each of the {scores.shape[1] - 1} stages before the last, "
            f"but got shape {thresholds.shape}. Give one per stage."
        )
    reached = scores[:, :-1] >= thresholds
    return np.where(reached.any(axis=1), reached.argmax(axis=1) if reached.shape[1] else 0, scores.shape[1] - 1)


def tiers_left_out(
    tiers: Sequence[str], thresholds: Sequence[float] | np.ndarray, rule: str = "threshold"
) -> tuple[str, ...]:
    """Return the tiers before the last that answer no row, whatever its score, and so need not run at all.

    Args:
        tiers: the tier of every stage, in order, ``S`` names.
        thresholds: ``(S - 1,)``; a tier is left out where those of all its stages are plus infinity.
        rule: with ``patience`` a tier's answers count in later ones, so all are left out or none.

    Example:
        >>> tiers_left_out(["swift", "super"], [np.inf]), tiers_left_out(["swift", "super"], [0.9])
        (('swift',), ())
    """
    if rule == "patience" and not all(threshold == np.inf for threshold in thresholds):
        return ()
    may_answer = {tier for tier, threshold in zip(tiers, thresholds, strict=False) if threshold < np.inf}
    return tuple(tier for tier in dict.fromkeys(tiers) if tier != tiers[-1] and tier not in may_answer)


def _sorted_events(start: np.ndarray, parts: list[tuple[np.ndarray, ...]]) -> Events:
    """Join ``(dial, row, before, after)`` parts and sort them by dial."""
    if not parts:
        empty = np.zeros(0)
        return Events(start, empty, empty.astype(np.int32), empty.astype(np.int16), empty.astype(np.int16))
    dial, row, before, after = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = ascending(dial)
    return Events(start, dial[order], row[order], before[order], after[order])
