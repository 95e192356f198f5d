"""A rule of a user's own, in one file: stay once the largest probability, averaged over the stages so far, is high."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dial.stages.scores import compute
from dial.stages.table import StageTable
from dial.tradeoff.rule import Reached, Rule
from dial.tradeoff.rules import register


@register
@dataclass(frozen=True)
class Mean(Rule):
    """Stay where the mean over the stages so far reaches the threshold."""

    name: ClassVar[str] = "mean"
    label: ClassVar[str] = "the mean so far"
    memory: ClassVar[tuple[float, ...]] = (0.0,)

    def values(self, table: StageTable) -> np.ndarray:
        assert table.outputs is not None
        surety = np.stack([compute("softmax", table.outputs[:, s]) for s in range(len(table.stages))], axis=1)
        return np.cumsum(surety, axis=1) / np.arange(1, surety.shape[1] + 1)

    def confidence(self, rows: Reached) -> np.ndarray:
        rows.memory[:, 0] += compute("softmax", rows.outputs)
        return rows.memory[:, 0] / (rows.stage + 1)
