"""The oracle: computation where it helps most, knowing the labels. An upper bound for routing, never a rule to use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from dial.stages.table import StageTable
from dial.tradeoff.events import Events
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.rule import Rule
from dial.tradeoff.taken import row_gains


@dataclass(frozen=True)
class Oracle(Rule):
    """All rows move one after the other, those that gain most per MAC first; its dial counts the moves."""

    name: ClassVar[str] = "oracle"
    label: ClassVar[str] = "oracle (knows the labels)"
    routes: ClassVar[bool] = False

    @classmethod
    def charted(cls, table: StageTable, scores: Sequence[str]) -> list[Self]:
        """None: it is a line to compare rules with."""
        return []

    def events(self, table: StageTable, quantiles: Quantiles | None = None) -> tuple[Events, None]:
        """See :func:`oracle_events`, of the table's first metric."""
        return oracle_events(table, table.metrics[0]), None

    def replay(self, table: StageTable) -> np.ndarray:
        """The stage of each row after as many moves as its dial says, ``(N,)``."""
        return self.events(table)[0].stages(self.thresholds[0])


def oracle_events(table: StageTable, metric: str) -> Events:
    """Moves in the order in which they help most.

    For two stages: first the examples that only the Super gets right, then those where both are right or both wrong,
    each cheapest first, at last those that only the Swift gets right. For more stages each example moves along the
    upper hull of its own (cost, gain) points, and all moves are ordered by gain per MAC. For real-valued labels the
    gain is the decrease of the squared error, and for free text what the row adds to the metric to first order. F1 and
    MCC use the same order as accuracy.

    Returns:
        Events whose dials are 0, 1, 2, …: above each, one more move has been made.
    """
    gain = row_gains(table, metric)
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
    if not parts:
        return Events.none(rows)
    falling, cost, row, before, after = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((cost, falling))  # stable: an example's earlier move, concatenated earlier, stays before
    moves = (row[order].astype(np.int32), before[order].astype(np.int16), after[order].astype(np.int16))
    return Events(np.zeros(rows, dtype=np.int16), np.arange(len(order), dtype=np.float64), *moves)
