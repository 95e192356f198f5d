"""What a rule is: from what is known of a row at each stage to the stage that answers it, with one dial.

On a stage table it is replayed on whole rows at once; where models run, a :class:`Router` asks it stage by stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from dial.stages.table import StageTable
from dial.stages.task import task_of_columns
from dial.tradeoff.curve import Curve, EventCurve
from dial.tradeoff.events import Events, replay, threshold_events
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.taken import Taken

if TYPE_CHECKING:
    from torch import Tensor

NOTHING = np.zeros((0, 0))


class Reached(NamedTuple):
    """Rows ``R`` of a batch that reach a stage.

    Attributes:
        stage: its position; the last decides nothing.
        ids: ``(R,)``.
        outputs: ``(R, C)`` logits.
        given: scores ``(R,)`` that the tier gives itself, by name.
        memory: ``(R, M)`` what the rule remembers of the rows; what is written there is kept.
    """

    stage: int
    ids: np.ndarray
    outputs: np.ndarray
    given: Mapping[str, Tensor] | None
    memory: np.ndarray


@dataclass(frozen=True)
class Rule:
    """A rule with its values: a row stays at the first stage at which its *confidence* reaches the threshold.

    A kind of rule is a subclass in a file of its own. What it must define is its name, :meth:`values` (the confidence
    on a stage table) and :meth:`confidence` (the same, asked stage by stage); all else has a default here. Turning a
    rule's dial up never sends a row back to an earlier stage.

    Attributes:
        score: what decides; the rule's own name unless :attr:`reads_score`.
        thresholds: one for each stage but the last; none where the values are not chosen yet.
        stages: names of all stages, in order, where models run; on a table they are the table's.
        temperatures: one for each stage; all 1 if not given.
        seed: of ``random``.
        tolerance: where answers are numbers: two agree if they differ by less.

    Raises:
        ValueError: another number of thresholds or temperatures than stages.
    """

    name: ClassVar[str]
    """As users and files spell it."""
    label: ClassVar[str]
    """For people."""
    memory: ClassVar[tuple[float, ...]] = ()
    """What is kept of a row from stage to stage, as it is before the first; empty: a stage decides by itself."""
    reads_score: ClassVar[bool] = False
    """Whether the user names the score that decides; else it is the rule's own."""
    has_dial: ClassVar[bool] = True
    """Whether one dial gives all thresholds, so that there is a curve."""
    routes: ClassVar[bool] = True
    """Whether it can decide on rows without labels."""
    comparable: ClassVar[bool] = True
    """Whether confidences of different stages are on one scale; else their quantiles on calibration rows are."""
    random: ClassVar[bool] = False

    score: str = ""
    thresholds: tuple[float, ...] = ()
    stages: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = ()
    seed: int = 0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not self.reads_score:
            object.__setattr__(self, "score", self.name)
        if not self.stages:
            return
        if not self.temperatures:
            object.__setattr__(self, "temperatures", (1.0,) * len(self.stages))
        for name, count in (("thresholds", len(self.stages) - 1), ("temperatures", len(self.stages))):
            values = getattr(self, name)
            if len(values) != count or any(np.isnan(value) for value in values):
                raise ValueError(
                    f"`{name}` must be {count} numbers for the stages {', '.join(self.stages)}, but got {list(values)}."
                )

    @property
    def key(self) -> str:
        """The rule without its values, ``name/score``."""
        return f"{self.name}/{self.score}"

    @property
    def only_super(self) -> bool:
        """Whether no row may stop before the last stage."""
        return all(threshold == np.inf for threshold in self.thresholds)

    def at(self, thresholds: Sequence[float] | np.ndarray) -> Self:
        """The rule with the given thresholds."""
        return dataclasses.replace(self, thresholds=tuple(float(threshold) for threshold in thresholds))

    def left_out(self, tiers: Sequence[str]) -> tuple[str, ...]:
        """Tiers before the last that answer no row, whatever comes, and so need not run at all.

        Args:
            tiers: the tier of every stage, in order, ``S`` names.
        """
        if self.memory and not self.only_super:
            return ()  # later stages remember what a tier said, so all are left out or none
        may_answer = {tier for tier, threshold in zip(tiers, self.thresholds, strict=False) if threshold < np.inf}
        return tuple(tier for tier in dict.fromkeys(tiers) if tier != tiers[-1] and tier not in may_answer)

    # On a stage table.

    def values(self, table: StageTable) -> np.ndarray:
        """The confidence of every row at every stage, ``(N, S)`` float64, higher = surer; the last decides nothing."""
        raise NotImplementedError

    def events(self, table: StageTable, quantiles: Quantiles | None = None) -> tuple[Events, Quantiles | None]:
        """The moves of rows as the dial is turned up, and the scale of a dial that stages share as quantiles.

        Args:
            table: rows of one split.
            quantiles: for more than two stages, fitted on other rows; by default on these.
        """
        values = self.values(table)
        if self.comparable or len(table.stages) <= 2:  # the dial is the confidence itself
            return threshold_events(values), None
        quantiles, values = (quantiles, quantiles.transform(values)) if quantiles else Quantiles.fit_transform(values)
        return threshold_events(values), quantiles

    def curve(self, table: StageTable, quantiles: Quantiles | None = None) -> Curve:
        """Quality and cost at every setting of the dial; arguments as for :meth:`events`."""
        events, quantiles = self.events(table, quantiles)
        return EventCurve.of(table.deciding_by(self.score), events, self.name, self.score, quantiles)

    def turned(self, dial: float, stages: int, quantiles: Quantiles | None) -> Self:
        """The rule with the thresholds that a setting of its dial means.

        Args:
            dial: of a curve.
            stages: how many there are.
            quantiles: of the curve.
        """
        return self.at((dial,) * (stages - 1) if quantiles is None else quantiles.thresholds(dial))

    def replay(self, table: StageTable) -> np.ndarray:
        """The stage that answers each row, ``(N,)``; labels do not count."""
        return replay(self.values(table), np.asarray(self.thresholds))

    def taken(self, table: StageTable) -> Taken:
        """What it does with every row.

        Tiers that may answer no row do not run, so where no row may stop early the Super costs what it does alone.
        """
        return Taken.at(table, self.replay(table), self.left_out([stage.tier for stage in table.stages]), self.score)

    # Stage by stage, where models run.

    def router(self, ids: np.ndarray, memory: np.ndarray | None = None) -> Router:
        """Decides for one batch, stage by stage: the ``go_on`` of :meth:`StagedModel.run`.

        Args:
            ids: ``(B,)`` what ``random`` hashes, and what errors call a row.
            memory: :attr:`Router.memory` of these rows where they have been through earlier stages elsewhere.
        """
        return Router(self, ids, memory)

    def confidence(self, rows: Reached) -> np.ndarray:
        """What is compared with the stage's threshold, ``(R,)`` float64; NaN where the last stage has none."""
        raise NotImplementedError

    def confidence_of_row(self, stage: int, outputs: list[float]) -> float | None:
        """The same of one row's finite logits, in plain numbers, ten times faster; None: ask :meth:`confidence`."""
        return None

    @property
    def given_by_tiers(self) -> bool:
        """Whether it needs a score that a tier computes itself, beside its outputs."""
        return False

    def check_scores(self, given: Sequence[str], argument: str) -> None:
        """Refuse a model that does not give what is compared.

        Args:
            given: scores that the model gives itself.
            argument: how the user calls the operating point.

        Raises:
            ValueError: it lacks the score.
        """

    # What a sweep does with it.

    @classmethod
    def charted(cls, table: StageTable, scores: Sequence[str]) -> list[Self]:
        """The rules of this kind that a sweep charts.

        Args:
            table: the rows.
            scores: that are looked at.
        """
        return [cls()]

    @classmethod
    def check_settings(cls, settings: Any, stages: int, regression: bool, prefix: str = "") -> None:
        """Refuse what the user asks of this kind and cannot be.

        Args:
            settings: of the sweep.
            stages: how many there are.
            regression: whether the task has real-valued labels.
            prefix: of the arguments' names as the user spells them.
        """

    @classmethod
    def asked_for(cls, settings: Any) -> Sequence[float]:
        """Thresholds that are reported as the user gives them, beside those that are chosen."""
        return ()

    @property
    def by_score(self) -> bool:
        """Whether each stage decides by a score of the rows, whose densities are worth looking at."""
        return False

    def details(self) -> dict[str, Any]:
        """What a report says of it beside score and thresholds."""
        return {}

    @classmethod
    def spelt(cls, thresholds: Sequence[Any]) -> str:
        """Thresholds in a column for people."""
        return ", ".join(f"{float(threshold):.4g}" for threshold in dict.fromkeys(thresholds))


class Router:
    """One batch on its way through the stages: after each it says who goes on, and keeps where each row stopped.

    Args:
        rule: with its values and stages.
        ids: ``(B,)`` of the rows.
        memory: ``(B, M)`` what the rule remembers of them; None before the first stage.
    """

    def __init__(self, rule: Rule, ids: np.ndarray, memory: np.ndarray | None = None) -> None:
        self.rule, self.ids = rule, np.asarray(ids)
        self._memory = memory
        self._outputs: np.ndarray | None = None

    # These are not made where one row is decided in plain numbers: at batch size 1 every array shows in its time.

    @cached_property
    def stage(self) -> np.ndarray:
        """``(B,)`` where each row stopped, -1 for deferred rows."""
        return np.full(len(self.ids), -1)

    @cached_property
    def score(self) -> np.ndarray:
        """``(B,)`` the confidence there, NaN for deferred rows."""
        return np.full(len(self.ids), np.nan)

    @cached_property
    def deferred(self) -> np.ndarray:
        """``(B,)`` whether a row has not stopped."""
        return np.ones(len(self.ids), dtype=bool)

    @property
    def memory(self) -> np.ndarray:
        """What the rule remembers of each row, ``(B, M)``."""
        if self._memory is None:
            self._memory = np.array([self.rule.memory] * len(self.ids))
        return self._memory

    def __call__(self, stage: int, rows: Tensor, outputs: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Which of the rows ``(R,)`` go on after a stage, as a bool ``(R,)``; none after the last.

        Args:
            stage: its position among all stages.
            rows: positions in the batch.
            outputs: ``(R, C)`` logits.
            given: scores ``(R,)`` that the tier gives itself, by name.

        Raises:
            ValueError: an output is not finite.
        """
        import torch  # where models run; a sweep does without

        return torch.from_numpy(self.decide(stage, rows.cpu().numpy(), outputs, given)).to(rows.device)

    def decide(
        self, stage: int, rows: np.ndarray, outputs: Tensor, given: Mapping[str, Tensor] | None = None
    ) -> np.ndarray:
        """What a call gives, in numpy. At batch size 1 every operation here shows in the time of a row."""
        rule, logits = self.rule, outputs.detach().cpu().numpy()
        self._check_finite(stage, rows, logits)
        alone = len(self.ids) == 1
        memory = NOTHING if not rule.memory else self.memory if alone else self.memory[rows]
        score = rule.confidence(Reached(stage, self.ids[rows], logits, given, memory))
        if rule.memory and not alone:
            self.memory[rows] = memory
        last = stage == len(rule.thresholds)
        # As in the table's replay, a row whose confidence equals the threshold stays.
        stays = score >= rule.thresholds[stage] if not last else np.ones(len(rows), dtype=bool)
        if stays.any():
            self._settle(stage, rows[stays], logits[stays], score[stays])
        return ~stays

    def decide_row(self, stage: int, outputs: Tensor) -> bool:
        """Whether a batch that is one row goes on, in plain numbers where the rule has them.

        Args:
            stage: its position.
            outputs: ``(1, C)`` logits.

        Raises:
            ValueError: an output is not finite.
        """
        rule, row = self.rule, outputs.tolist()[0]
        score = rule.confidence_of_row(stage, row) if isfinite(sum(row)) else None
        if score is None:
            return bool(self.decide(stage, np.zeros(1, dtype=np.int64), outputs)[0])
        if stage < len(rule.thresholds) and not score >= rule.thresholds[stage]:
            return True
        self._outputs = np.array([row], dtype=np.float32)
        self.stage, self.score, self.deferred = np.array([stage]), np.array([score]), np.array([False])
        return False

    def _settle(self, stage: int, rows: np.ndarray, logits: np.ndarray, score: np.ndarray) -> None:
        """These rows stop here."""
        if self._outputs is None:
            self._outputs = np.zeros((len(self.ids), logits.shape[1]), dtype=np.float32)
        self._outputs[rows], self.stage[rows], self.score[rows], self.deferred[rows] = logits, stage, score, False

    def _check_finite(self, stage: int, rows: np.ndarray, logits: np.ndarray) -> None:
        finite = np.isfinite(logits)
        if not finite.all():
            broken = rows[~finite.all(axis=1)]
            raise ValueError(
                f"`{self.rule.stages[stage]}` must give finite outputs, but it does not for row "
                f"{self.ids[broken[0]]}; check its weights, or load it in float32."
            )

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
        scaled = logits / np.asarray(self.rule.temperatures)[self.stage[rows], None]
        return task.predict(logits), task.probability(scaled)
