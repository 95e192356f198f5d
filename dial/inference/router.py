"""From a rule with its values to the question that a staged model asks after each stage: which rows go on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from dial.stages import scores as routing
from dial.stages.task import task_of_columns

RULES = ("threshold", "per_stage", "patience")


@dataclass(frozen=True)
class Decision:
    """A rule with its values. What it decides is what :func:`~dial.tradeoff.rules.replay` decides.

    Scores are computed in float64 by the functions that computed the stage table's.

    Args:
        stages: names of all stages, in order.
        rule: ``threshold`` or ``per_stage`` (stay at the first stage whose score reaches its threshold), or
            ``patience`` (stay once as many stages as the threshold says have repeated their predecessor's answer).
        score: one of :data:`~dial.stages.scores.SCORES`, ``random``, or one that tiers give themselves
            (``learned``); not read by ``patience``.
        thresholds: raw scores, one for each stage but the last.
        temperatures: one for each stage; all 1 if not given.
        seed: of ``random``.
        tolerance: for ``patience`` of a regression: two answers agree if they differ by less.

    Raises:
        ValueError: an unknown rule, or another number of thresholds or temperatures than stages.

    Example:
        >>> decision = Decision(("swift", "super"), "threshold", "softmax", (0.9,))
        >>> course = decision.course(np.arange(2))
        >>> course(0, torch.arange(2), torch.tensor([[4.0, 0.0], [0.1, 0.0]]))
        tensor([False,  True])
    """

    stages: tuple[str, ...]
    rule: str
    score: str
    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...] = ()
    seed: int = 0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(RULES)}, but got {self.rule!r}.")
        if not self.temperatures:
            object.__setattr__(self, "temperatures", (1.0,) * len(self.stages))
        for name, wanted in (("thresholds", len(self.stages) - 1), ("temperatures", len(self.stages))):
            values = getattr(self, name)
            if len(values) != wanted or any(np.isnan(value) for value in values):
                raise ValueError(
                    f"`{name}` must be {wanted} numbers for the stages {', '.join(self.stages)}, "
                    f"but got {list(values)}."
                )

    @cached_property
    def plain(self) -> bool:
        """Whether the score is a function of a row's logits alone."""
        return self.rule != "patience" and self.score in routing.SCORES

    @property
    def given_by_tiers(self) -> bool:
        """Whether the score is one that a tier computes itself, beside its outputs."""
        return self.rule != "patience" and self.score != "random" and self.score not in routing.SCORES

    def scores(
        self, stage: int, ids: np.ndarray, outputs: np.ndarray, decisions: Mapping[str, Tensor] | None = None
    ) -> np.ndarray:
        """The score of each row ``(R,)`` at a stage, float64; not for the rule ``patience``.

        Args:
            stage: its position.
            ids: ``(R,)`` what ``random`` hashes.
            outputs: ``(R, C)`` logits.
            decisions: scores ``(R,)`` that the tier gives itself, by name.

        Raises:
            ValueError: the tier does not give the score.
        """
        if self.score == "random":
            return routing.random_score(ids, stage, self.seed)
        if self.score in routing.SCORES:
            temperature = self.temperatures[stage]
            if temperature == 1:  # what `compute` does, without its checks, which take longer than that for one row
                return routing.SCORES[self.score](outputs.T.astype(np.float64), np)
            return routing.compute(self.score, outputs, temperature)
        if not decisions or self.score not in decisions:
            raise ValueError(
                f"`score` must be one that stage {self.stages[stage]} has, but it does not give {self.score!r}; "
                "choose another score."
            )
        given = np.asarray(decisions[self.score].detach().cpu().numpy(), dtype=np.float64)
        if not np.isfinite(given).all() and stage < len(self.thresholds):
            row = ids[np.flatnonzero(~np.isfinite(given))[0]]
            raise ValueError(
                f"`{self.stages[stage]}` must give finite scores {self.score!r}, as thresholds lie between scores, but "
                f"it does not for row {row}; check its weights, or choose another score."
            )
        return given

    def course(self, ids: np.ndarray, counts: tuple[np.ndarray, np.ndarray] | None = None) -> Course:
        """The ``go_on`` of :meth:`StagedModel.run` for one batch.

        Args:
            ids: ``(B,)`` what ``random`` hashes, and what errors call a row.
            counts: the :attr:`Course.counts` of these rows where they have been through earlier stages elsewhere.
        """
        return Course(self, ids, counts)


class Course:
    """One batch on its way through the stages: asked after each, it remembers where each row stopped and what it said.

    Args:
        decision: the rule.
        ids: ``(B,)`` of the rows.
        counts: predictions and agreements so far, each ``(B,)``.
    """

    def __init__(self, decision: Decision, ids: np.ndarray, counts: tuple[np.ndarray, np.ndarray] | None) -> None:
        self.decision, self.ids = decision, np.asarray(ids)
        self._counts = counts
        self._outputs: np.ndarray | None = None

    @cached_property
    def stage(self) -> np.ndarray:
        """``(B,)`` where each row stopped, -1 for those that go on."""
        return np.full(len(self.ids), -1)

    @cached_property
    def score(self) -> np.ndarray:
        """``(B,)`` the score there, NaN for those that go on."""
        return np.full(len(self.ids), np.nan)

    @cached_property
    def going(self) -> np.ndarray:
        """``(B,)`` which those are."""
        return np.ones(len(self.ids), dtype=bool)

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The latest predictions, and how many stages in a row have repeated them, each ``(B,)``."""
        if self._counts is None:
            self._counts = np.full(len(self.ids), np.nan), np.zeros(len(self.ids))
        return self._counts

    def __call__(
        self, stage: int, rows: Tensor, outputs: Tensor, decisions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Which of the rows ``(R,)`` go on after a stage, as a bool ``(R,)``; none after the last.

        Args:
            stage: its position among all stages.
            rows: positions in the batch.
            outputs: ``(R, C)`` logits.
            decisions: scores ``(R,)`` that the tier gives itself, by name.

        Raises:
            ValueError: an output is not finite.
        """
        return torch.from_numpy(self.decide(stage, rows.cpu().numpy(), outputs, decisions)).to(rows.device)

    def decide(
        self, stage: int, rows: np.ndarray, outputs: Tensor, decisions: Mapping[str, Tensor] | None = None
    ) -> np.ndarray:
        """What a call gives, in numpy. At batch size 1 every operation here shows in the time of a row."""
        decision, logits = self.decision, outputs.detach().cpu().numpy()
        self._check_finite(stage, rows, logits)
        last = stage == len(decision.thresholds)
        if decision.rule == "patience":
            score = self._agreements(rows, logits)
        elif last:
            score = self._last_scores(stage, rows, logits)
        else:
            score = decision.scores(stage, self.ids[rows], logits, decisions)
        # As in the table's replay, a row whose score equals the threshold stays.
        stays = score >= decision.thresholds[stage] if not last else np.ones(len(rows), dtype=bool)
        if stays.any():
            self._settle(stage, rows[stays], logits[stays], score[stays])
        return ~stays

    def goes_on(self, stage: int, outputs: Tensor) -> bool:
        """What :meth:`decide` says of a batch that is one row, in plain numbers.

        Args:
            stage: its position among all stages.
            outputs: ``(1, C)`` logits.

        Raises:
            ValueError: an output is not finite.
        """
        decision, row = self.decision, outputs.tolist()[0]
        last = stage == len(decision.thresholds)
        if not decision.plain or len(row) == 1 or not isfinite(sum(row)):
            return bool(self.decide(stage, np.zeros(1, dtype=np.int64), outputs)[0])
        score = routing.of_row(decision.score, row, decision.temperatures[stage])
        if not last and not score >= decision.thresholds[stage]:
            return True
        self._outputs = np.array([row], dtype=np.float32)
        self.stage, self.score, self.going = np.array([stage]), np.array([score]), np.array([False])
        return False

    def _settle(self, stage: int, rows: np.ndarray, logits: np.ndarray, score: np.ndarray) -> None:
        """These rows stop here."""
        if self._outputs is None:
            self._outputs = np.zeros((len(self.ids), logits.shape[1]), dtype=np.float32)
        self._outputs[rows], self.stage[rows], self.score[rows], self.going[rows] = logits, stage, score, False

    def _check_finite(self, stage: int, rows: np.ndarray, logits: np.ndarray) -> None:
        finite = np.isfinite(logits)
        if not finite.all():
            broken = rows[~finite.all(axis=1)]
            raise ValueError(
                f"`{self.decision.stages[stage]}` must give finite outputs, but it does not for row "
                f"{self.ids[broken[0]]}; check its weights, or load it in float32."
            )

    def _last_scores(self, stage: int, rows: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Of the last stage, which decides nothing, so that a tier may lack the score there."""
        known = self.decision.score in task_of_columns(logits.shape[1]).scores
        if not known:
            return np.full(len(rows), np.nan)
        return self.decision.scores(stage, self.ids[rows], logits)

    def _agreements(self, rows: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Count how often in a row each row's answer was repeated; a first answer repeats nothing."""
        previous, repeated = self.counts
        prediction = task_of_columns(logits.shape[1]).predict(logits)
        apart = np.abs(prediction - previous[rows])  # NaN before the first answer, which agrees with nothing
        repeated[rows] = np.where((apart < self.decision.tolerance) | (apart == 0), repeated[rows] + 1, 0)
        previous[rows] = prediction
        return repeated[rows]

    @property
    def outputs(self) -> np.ndarray:
        """The logits of each row where it stopped, ``(B, C)`` float32."""
        return np.zeros((len(self.ids), 1), dtype=np.float32) if self._outputs is None else self._outputs

    def answers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and their probabilities, each ``(R,)``, at the stages where the rows stopped.

        A class and its probability at the stage's temperature; for regression the value, and NaN.
        """
        logits = self.outputs[rows].astype(np.float64)
        task = task_of_columns(logits.shape[1])
        scaled = logits / np.asarray(self.decision.temperatures)[self.stage[rows], None]
        return task.predict(logits), task.probability(scaled)


def replayed(decision: Decision, scores: np.ndarray, predictions: np.ndarray | None = None) -> np.ndarray:
    """The stage ``(N,)`` that the table's replay gives every row: what the executor must agree with.

    Args:
        decision: the rule.
        scores: ``(N, S)`` of the decision's score; not read by ``patience``.
        predictions: ``(N, S)``, for ``patience``.
    """
    from dial.tradeoff.rules import agreement, replay

    if decision.rule == "patience":
        if predictions is None:
            raise ValueError("`predictions` must be given for the rule patience.")
        scores = agreement(predictions, decision.tolerance)
    return replay(scores, np.asarray(decision.thresholds))
