"""Events: the moves of rows to later stages as a dial is turned up, and the stages that thresholds lead to.

A rule has the property that turning its dial up never sends a row back to an earlier stage. Then the whole trade-off is
a sorted list of *events*, (dial, row, stage before, stage after), and everything that depends on the stages taken is a
cumulative sum over them.
"""

from dataclasses import dataclass

import numpy as np


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

    @classmethod
    def none(cls, rows: int) -> "Events":
        """No row ever moves, as there is one stage."""
        kinds = (np.float64, np.int32, np.int16, np.int16)
        return cls(np.zeros(rows, dtype=np.int16), *(np.zeros(0, dtype=kind) for kind in kinds))

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
    if stages == 2:  # each row moves once; the stages are the same for all and held once
        order = np.argsort(deciding[0])
        at = [np.broadcast_to(np.int16(stage), rows) for stage in (0, 1)]
        return Events(at[0], deciding[0][order], order.astype(np.int32), *at)
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
    if not parts:
        return Events.none(rows)
    dial, row, left, entered = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(dial)  # those of one row differ, so events of one dial may come in any order
    return Events(np.zeros(rows, dtype=np.int16), dial[order], row[order], left[order], entered[order])


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
    taken, going = np.zeros(len(scores), np.intp), np.ones(len(scores), dtype=bool)
    for column, threshold in zip(scores.T, thresholds, strict=False):
        going &= ~(column >= threshold)
        taken += going
    return taken
