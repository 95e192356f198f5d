"""The rule of E-LANG, TangoBERT and DeeBERT: stay where a score reaches its threshold. A coin is one such score."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from dial.stages import scores as routing
from dial.stages.table import StageTable
from dial.stages.task import task_of_columns
from dial.tradeoff.curve import Curve
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.random_routing import RandomCurve, stop_chances
from dial.tradeoff.rule import Reached, Rule
from dial.tradeoff.taken import Taken

RANDOM = "random"


@dataclass(frozen=True)
class Threshold(Rule):
    """Stay at the first stage whose score reaches the threshold.

    The score is one of :data:`~dial.stages.scores.SCORES`, ``random``, or one that tiers give themselves (``learned``).
    By the score ``random`` a coin decides, so that on a table quality and cost are expectations over its draws.

    Example:
        >>> import torch
        >>> rule = Threshold("softmax", (0.9,), ("swift", "super"))
        >>> rule.router(np.arange(2)).decide(0, np.arange(2), torch.tensor([[4.0, 0.0], [0.1, 0.0]]))
        array([False,  True])
    """

    name: ClassVar[str] = "threshold"
    label: ClassVar[str] = "threshold"
    reads_score: ClassVar[bool] = True
    comparable: ClassVar[bool] = False

    @classmethod
    def charted(cls, table: StageTable, scores: Sequence[str]) -> list[Self]:
        """One for each score."""
        return [cls(score) for score in scores]

    @property
    def random(self) -> bool:  # type: ignore[override]
        """Whether a coin decides."""
        return self.score == RANDOM

    @property
    def by_score(self) -> bool:
        """Whether it is not a coin."""
        return not self.random

    def values(self, table: StageTable) -> np.ndarray:
        """The table's score, ``(N, S)``.

        Raises:
            ValueError: the table does not hold it.
        """
        if self.score not in table.scores:
            raise ValueError(
                f"`score` must be one that the table holds: {', '.join([*table.scores, 'oracle'])}; but got "
                f"{self.score!r}. Compute it first with `with_scores`."
            )
        return table.scores[self.score]

    def curve(self, table: StageTable, quantiles: Quantiles | None = None) -> Curve:
        """See :meth:`Rule.curve`; of random routing its expectation."""
        return RandomCurve.of(table, self.name, self.score) if self.random else super().curve(table, quantiles)

    def taken(self, table: StageTable) -> Taken:
        """See :meth:`Rule.taken`; of random routing its expectation."""
        if not self.random:
            return super().taken(table)
        left_out = self.left_out([stage.tier for stage in table.stages])
        return Taken.drawn(table, stop_chances(self.thresholds), left_out)

    @cached_property
    def _of_logits(self) -> bool:
        """Whether the score is a function of a row's logits alone."""
        return self.score in routing.SCORES

    @property
    def given_by_tiers(self) -> bool:
        """See :attr:`Rule.given_by_tiers`."""
        return not self.random and not self._of_logits

    def check_scores(self, given: Sequence[str], argument: str) -> None:
        """See :meth:`Rule.check_scores`."""
        if self.score not in (*routing.SCORES, RANDOM, *given):
            raise ValueError(
                f"`{argument}` decides by the score {self.score!r}, which the model does not have; "
                "choose one from a sweep of this model (`dial test`)."
            )

    def confidence(self, rows: Reached) -> np.ndarray:
        """The score of each row ``(R,)``, by the functions that computed the table's.

        Raises:
            ValueError: the tier does not give the score.
        """
        stage = rows.stage
        if self.random:
            return routing.random_score(rows.ids, stage, self.seed)
        if rows.given and self.score in rows.given:
            return self._given(rows)
        if stage == len(self.thresholds) and self.score not in task_of_columns(rows.outputs.shape[1]).scores:
            return np.full(len(rows.ids), np.nan)  # it decides nothing, so a tier may lack the score there
        if self._of_logits:
            temperature = self.temperatures[stage]
            if temperature == 1:  # what `compute` does, without its checks, which take longer than that for one row
                return routing.SCORES[self.score](rows.outputs.T.astype(np.float64), np)
            return routing.compute(self.score, rows.outputs, temperature)
        raise ValueError(
            f"`score` must be one that stage {self.stages[stage]} has, but it does not give {self.score!r}; "
            "choose another score."
        )

    def _given(self, rows: Reached) -> np.ndarray:
        """A score that the tier gives itself."""
        assert rows.given is not None
        stage = rows.stage
        values = np.asarray(rows.given[self.score].detach().cpu().numpy(), dtype=np.float64)
        if not np.isfinite(values).all():
            row = rows.ids[np.flatnonzero(~np.isfinite(values))[0]]
            raise ValueError(
                f"`{self.stages[stage]}` must give finite scores {self.score!r}, as thresholds lie between scores, but "
                f"it does not for row {row}; check its weights, or choose another score."
            )
        return values

    def confidence_of_row(self, stage: int, outputs: list[float]) -> float | None:
        """See :meth:`Rule.confidence_of_row`."""
        if not self._of_logits or len(outputs) == 1:
            return None
        return routing.of_row(self.score, outputs, self.temperatures[stage])
