"""Courses of the learning rate: warm-up, then down to 0; once, or in each stage of a policy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

import numpy as np

Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1.0 - float(np.cos(np.pi * left))),
    "constant": lambda left: 1.0,
}


class LearningRate:
    """Factor of the learning rate at a step: linear warm-up from 0, then the schedule down to 0."""

    def __init__(self, total: int, warmup: int, schedule: Schedule) -> None:
        self.total, self.warmup, self.schedule = total, warmup, schedule

    def __call__(self, step: int) -> float:
        """Factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        left = max(0.0, (self.total - step) / max(1, self.total - self.warmup))
        return SCHEDULES[self.schedule](left)


class StagedRate:
    """Factor of the learning rate where each stage warms up and falls by itself.

    Args:
        ends: step after the last of each stage.
        warmup: share of a stage's steps.
        schedule: see :class:`LearningRate`.

    Example:
        >>> rate = StagedRate([2, 4], 0.0, "linear")
        >>> [rate(step) for step in range(4)]
        [1.0, 0.5, 1.0, 0.5]
    """

    def __init__(self, ends: list[int], warmup: float, schedule: Schedule) -> None:
        # Plain values: checkpoints keep the attributes of a scheduler's function.
        self.ends, self.warmup, self.schedule = list(ends), warmup, schedule

    def __call__(self, step: int) -> float:
        """Factor at a step, counted from 0."""
        stage = min(bisect_right(self.ends, step), len(self.ends) - 1)
        begin = self.ends[stage - 1] if stage else 0
        total = self.ends[stage] - begin
        return LearningRate(total, round(self.warmup * total), self.schedule)(step - begin)
