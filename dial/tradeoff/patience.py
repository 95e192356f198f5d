"""PABEE's rule: stay once as many consecutive stages as the dial says have repeated their predecessor's answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from dial.stages.table import StageTable
from dial.stages.task import task_of_columns
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.rule import Reached, Rule


@dataclass(frozen=True)
class Patience(Rule):
    """Stay at the first stage at which the last ``p + 1`` stages agree, else at the last.

    Zhou et al. 2020, "BERT Loses Patience". Numbers agree if they differ by less than the tolerance, or not at all. A
    threshold is a number of agreements, the same for all stages.
    """

    name: ClassVar[str] = "patience"
    label: ClassVar[str] = "patience (PABEE)"
    memory: ClassVar[tuple[float, ...]] = (float("nan"), 0.0)
    """The latest answer, which no first one repeats, and how many stages in a row have repeated it."""

    @classmethod
    def charted(cls, table: StageTable, scores: Sequence[str]) -> list[Self]:
        """One, for three stages or more, and of numbers, which never agree exactly, where there is a tolerance."""
        tolerance = table.settings.get("tolerance")
        agree = table.task.exact or tolerance is not None
        return [cls(tolerance=float(tolerance or 0.0))] if len(table.stages) > 2 and agree else []

    @classmethod
    def check_settings(cls, settings: Any, stages: int, regression: bool, prefix: str = "") -> None:
        """Refuse a patience that no row can reach, a tolerance for classes, or none for numbers."""
        patience, tolerance = settings.patience, settings.tolerance
        if tolerance is not None and not regression:
            raise ValueError(
                f"`{prefix}tolerance` is for regression, as classes agree or do not, but got {tolerance:g} for "
                "classification; leave it out."
            )
        if patience and regression and tolerance is None:
            raise ValueError(
                f"`{prefix}tolerance` must be given with a patience for regression, whose answers never agree exactly, "
                "but it was left out; give the difference below which two answers agree."
            )
        last = stages - 1
        for value in patience:
            if last < 2:
                raise ValueError(
                    f"`{prefix}patience` needs at least three exits, but got {value} for {stages}; leave it out."
                )
            if not 1 <= value <= last:
                raise ValueError(
                    f"`{prefix}patience` must be from 1 to {last}, as {stages} exits agree at most {last} times in a "
                    f"row, but got {value}."
                )

    @classmethod
    def asked_for(cls, settings: Any) -> Sequence[float]:
        """The patiences that the user names."""
        return settings.patience

    def values(self, table: StageTable) -> np.ndarray:
        """How many stages in a row, up to each, repeated their predecessor's answer, ``(N, S)``."""
        return agreement(table.predictions, self.tolerance)

    def turned(self, dial: float, stages: int, quantiles: Quantiles | None) -> Self:
        """See :meth:`Rule.turned`; agreements are counted, and between two numbers nothing changes."""
        return super().turned(float(np.ceil(dial)), stages, quantiles)

    def confidence(self, rows: Reached) -> np.ndarray:
        """How often in a row each row's answer was repeated, ``(R,)``."""
        answer, memory = task_of_columns(rows.outputs.shape[1]).predict(rows.outputs), rows.memory
        apart = np.abs(answer - memory[:, 0])
        memory[:, 1] = np.where((apart < self.tolerance) | (apart == 0), memory[:, 1] + 1, 0)
        memory[:, 0] = answer
        return memory[:, 1]

    def details(self) -> dict[str, Any]:
        """See :meth:`Rule.details`."""
        return {"tolerance": self.tolerance}

    @classmethod
    def spelt(cls, thresholds: Sequence[Any]) -> str:
        """Agreements in a row that stop a row; all stop at once below 1, and none ever above all."""
        value = float(thresholds[0])
        return "0" if value < 1 else "never" if value == float("inf") else f"{value:g}"


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
