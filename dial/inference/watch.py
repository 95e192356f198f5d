"""Watches the rows that are answered: do they look like those that the operating point was chosen on?"""

from __future__ import annotations

import numpy as np

from dial.inference.router import Decision
from dial.inference.work import Answer
from dial.stages.table import StageTable
from dial.tradeoff.rules import tiers_left_out
from dial.tradeoff.shift import Visits, differences

WATCHED = 20_000  # rows; more show no more than differences that mean nothing


class Watch:
    """Compares answers with calibration rows at the first stage that runs.

    Args:
        rows: the calibration rows.
        decision: the rule, by a score.
    """

    def __init__(self, rows: StageTable, decision: Decision) -> None:
        left_out = tiers_left_out([stage.tier for stage in rows.stages], decision.thresholds, decision.rule)
        self.first = next(s for s, stage in enumerate(rows.stages) if stage.tier not in left_out)
        thresholds = (*decision.thresholds, -np.inf)
        scores = rows.scores.get(decision.score)
        self.deciding = scores is not None and self.first < len(decision.thresholds)
        stayed = np.ones(len(rows), dtype=bool)
        if scores is not None and self.deciding:
            stayed = scores[:, self.first] >= thresholds[self.first]
        known = scores[:, self.first] if scores is not None and self.deciding else None
        self.calibration = Visits(stayed, known, rows.lengths.get(rows.stages[self.first].tier))
        self._stayed: list[bool] = []
        self._scores: list[float] = []
        self._lengths: list[int] = []

    def add(self, answer: Answer) -> None:
        """One more row, of which the first :data:`WATCHED` count."""
        if len(self._stayed) < WATCHED:
            stayed = answer.stage == self.first
            self._stayed.append(stayed)
            self._scores.append(answer.score if stayed else float("nan"))
            self._lengths.append(answer.length)

    def differences(self) -> dict[str, dict[str, float]]:
        """What differs beyond chance, see :func:`dial.tradeoff.shift.differences`."""
        scores = np.array(self._scores) if self.calibration.score is not None else None
        here = Visits(np.array(self._stayed, dtype=bool), scores, np.array(self._lengths))
        return differences(self.calibration, here)
