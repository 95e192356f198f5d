"""Staged models: tiers one after another, all their exits in order of cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.windows import take_windows
from dial.stages.scores import ANSWER_SCORES, SCORES, compute
from dial.stages.stage import Stage
from dial.stages.task import task_of
from dial.tiers.batching import Encoding
from dial.tiers.contract import GoOn, TierContract
from dial.tiers.labels import check_tiers_agree
from dial.tiers.tier import Tier

Answer = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Answered:
    """What all stages answered to ``B`` rows, where decoders write.

    Attributes:
        texts: ``(B, S)`` of objects; of a classifier's stage the name of its class.
        scores: ``(B, S)`` float64 by name, higher = surer; NaN at stages that do not give them.
        generated: ``(B,)`` steps that the decoder of a tier took, by the name of the tier.
        limited: ``(B,)`` bool, whether its answer was cut off by the limit of its length.
    """

    texts: np.ndarray
    scores: dict[str, Tensor]
    generated: dict[str, Tensor]
    limited: dict[str, Tensor]


class StagedModel(nn.Module):
    """One tier or a cascade of them; a stage is an exit of a tier.

    ``forward`` computes every stage of every row, for training and for the stage table. ``run`` computes only what
    the rows that go on need. Both give the same outputs.

    Args:
        tiers: cheapest first.

    Raises:
        ValueError: no tier, equal names, or tiers whose labels differ.
    """

    stages: tuple[Stage, ...]
    tiers: Sequence[Tier]

    def __init__(self, tiers: Sequence[Tier]) -> None:
        super().__init__()
        names = [tier.name for tier in tiers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`tiers` must be one or more tiers with names of their own, but got {names}.")
        for tier in tiers:
            if list(tier.label_names) != list(tiers[0].label_names):
                raise ValueError(
                    f"`tiers` must have the same labels, but {names[0]} has {tiers[0].label_names} "
                    f"and {tier.name} has {tier.label_names}; load each with the data's label names."
                )
        check_tiers_agree({tier.name: tier.own_label_names for tier in tiers})
        self.task = task_of(tiers[0].label_names)
        self.tiers = nn.ModuleList(tiers)  # type: ignore[assignment]
        self.stages = tuple(
            Stage(name=stage, tier=tier.name, index=index)
            for tier in tiers
            for index, stage in enumerate(tier.stage_names)
        )

    def forward(self, encodings: dict[str, Encoding]) -> Tensor:
        """Outputs of all stages.

        Args:
            encodings: for the encoding key of each tier its tensors ``(B, T)``.

        Returns:
            Logits ``(B, S, C)`` in float32 and in the data's order of labels.
        """
        return torch.cat([tier(encodings[tier.encoding_key]) for tier in self.tiers], dim=1)

    @property
    def writes(self) -> bool:
        """Whether answers are texts that a decoder writes, at one stage at least."""
        return any(tier.writes for tier in self.tiers)

    @property
    def model_scores(self) -> tuple[str, ...]:
        """Scores that a tier gives itself, where what decides is no function of what answers (BERxiT's certainty)."""
        return tuple(dict.fromkeys(name for tier in self.tiers for name in self._given_by(tier)))

    def _given_by(self, tier: Tier) -> tuple[str, ...]:
        """Beside a decoder's texts there are no logits, so that a classifier's scores count as given."""
        computed = SCORES if self.writes and not tier.writes and self.task.exact else ()
        return (*computed, *tier.model_scores)

    @property
    def routing_scores(self) -> tuple[str, ...]:
        """Those that are given wherever one decides; the last stage decides nothing."""
        *others, last = self.tiers
        deciding = [*others, last] if len(last.exits) > 1 else others
        return tuple(name for name in self.model_scores if all(name in self._given_by(tier) for tier in deciding))

    @property
    def late_scores(self) -> tuple[str, ...]:
        """Those that a finished answer tells wherever one decides; before the last every tier then writes each row."""
        *others, _ = self.tiers
        return ANSWER_SCORES if others and all(tier.generates for tier in others) else ()

    def decide(self, encodings: dict[str, Encoding]) -> tuple[Tensor, dict[str, Tensor]]:
        """What every stage answers, which is what :meth:`forward` gives where that answers, and with it the scores.

        Args:
            encodings: as for :meth:`forward`.

        Returns:
            Logits ``(B, S, C)`` in float32, and by name the scores ``(B, S)`` in float64, higher = surer; NaN at the
            stages of tiers that do not give them. Where decoders write (see :meth:`answered`) a column of zeros stands
            for the logits.
        """
        if self.writes:
            decided = [self._scored(tier, *tier.decide(encodings[tier.encoding_key])) for tier in self.tiers]
            given = self._side_by_side([part for _, part in decided], self.model_scores)
            return torch.cat([logits.new_zeros(*logits.shape[:2], 1) for logits, _ in decided], dim=1), given
        outputs: list[Tensor] = []
        scores: dict[str, list[Tensor]] = {name: [] for name in self.model_scores}
        for tier in self.tiers:
            encoding = encodings[tier.encoding_key]
            logits, own = tier.decide(encoding)
            if tier.answers_later:
                rows = torch.arange(len(logits), device=logits.device)
                answers = [tier.answer(encoding, rows, decided) for decided in logits.unbind(1)]
                outputs.append(torch.stack(answers, dim=1))
            else:
                outputs.append(logits)
            for name, parts in scores.items():
                parts.append(own.get(name, torch.full_like(logits[..., 0], torch.nan, dtype=torch.float64)))
        return torch.cat(outputs, dim=1), {name: torch.cat(parts, dim=1) for name, parts in scores.items()}

    def answered(self, encodings: dict[str, Encoding], scores: Sequence[str] = ()) -> Answered:
        """What every stage answers to every row, where decoders write.

        Args:
            encodings: as for :meth:`forward`.
            scores: of the finished answers, to give with those that decide.
        """
        parts = [self.answered_by(tier, encodings[tier.encoding_key], scores) for tier in self.tiers]
        return Answered(
            np.concatenate([part.texts for part in parts], axis=1),
            self._side_by_side([part.scores for part in parts], (*self.model_scores, *scores)),
            {name: steps for part in parts for name, steps in part.generated.items()},
            {name: cut for part in parts for name, cut in part.limited.items()},
        )

    def answered_by(self, tier: Tier, encoding: Encoding, scores: Sequence[str] = ()) -> Answered:
        """What one tier answers to every row; its scores are those that it gives.

        Args:
            tier: of these.
            encoding: tensors ``(B, T)``.
            scores: of the finished answers, to give with those that decide.
        """
        if not tier.writes:
            logits, given = self._scored(tier, *tier.decide(encoding))
            return Answered(self._in_words(logits), given, {}, {})
        said: list[dict[str, Tensor]] = []
        state = tier.run(encoding, lambda _, rows, outputs, own: said.append(own), scores=True)
        rows = torch.arange(tier.rows_in(encoding), device=encoding["input_ids"].device)
        written = tier.write(encoding, rows, state, bool(scores))
        given = {name: score[:, None] for name, score in {**said[0], **written.scores}.items()}
        texts = np.array([[text] for text in written.texts], dtype=object).reshape(-1, 1)
        if not tier.generates:
            return Answered(texts, given, {}, {})
        return Answered(texts, given, {tier.name: written.generated}, {tier.name: written.limited})

    def _scored(self, tier: Tier, logits: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """A tier's logits ``(B, E, C)``, and all scores ``(B, E)`` that it gives."""
        computed = [name for name in self._given_by(tier) if name not in own and name in SCORES]
        return logits, {**own, **{name: compute(name, logits, tier.view.temperature) for name in computed}}

    def _side_by_side(self, parts: Sequence[dict[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
        """Scores ``(B, S)`` from those of each tier, NaN where it does not give one."""
        exits = [len(tier.exits) for tier in self.tiers]
        some = next((score for part in parts for score in part.values()), None)
        if some is None:
            return {}
        missing = torch.full_like(some[:, :1], torch.nan)
        return {
            name: torch.cat(
                [part.get(name, missing.expand(-1, e)) for part, e in zip(parts, exits, strict=True)], dim=1
            )
            for name in names
        }

    def _in_words(self, logits: Tensor) -> np.ndarray:
        """What a classifier's or regressor's logits ``(B, E, C)`` would be as a text, ``(B, E)``."""
        answers = self.task.predict(logits.float().cpu().numpy())
        names = self.task.label_names
        words = [names[int(answer)] if names else repr(float(answer)) for answer in answers.ravel().tolist()]
        return np.array(words, dtype=object).reshape(answers.shape)

    def run(self, encodings: dict[str, Encoding], go_on: GoOn, scores: bool = False) -> tuple[Tensor, Tensor]:
        """Visit the stages in order; after each only the rows that ``go_on`` names are computed further.

        Args:
            encodings: as for :meth:`forward`. Each tier reads only its own rows, trimmed to their longest.
            go_on: gets the stage's index, the rows ``(R,)`` of the batch that reached it and their outputs ``(R, C)``;
                returns a bool ``(R,)``, True for rows that continue. It is not asked at the last stage.
            scores: give ``go_on`` a fourth argument, by name the scores ``(R,)`` that the stage gives itself.

        Returns:
            Outputs ``(B, C)`` of the stage that answered each row, and that stage ``(B,)``; of a tier that writes what
            decided, which a :class:`~dial.inference.executor.Executor` goes on from.
        """
        first = encodings[self.tiers[0].encoding_key]
        count = self.tiers[0].rows_in(first)
        answers = Answers(go_on, len(self.stages) - 1, count, first["input_ids"].device, scores)
        offset = 0
        for tier in self.tiers:
            if len(answers.active) == 0:
                break
            answers.enter(offset)
            encoding = take_rows(encodings[tier.encoding_key], answers.active_of(count))
            state = tier.run(encoding, answers.ask, scores)
            later = tier.answers_later and not tier.writes
            answers.leave(partial(_answer, tier, encoding, state) if later else None)
            offset += len(tier.exits)
        return answers.outputs(self.task.columns), answers.stage


class Answers:
    """Keeps the latest output of each row, and which rows go on; translates a tier's rows into the batch's.

    Args:
        go_on: the caller's question.
        last: index of the last stage.
        rows: size of the batch.
        device: where the rows' indices live.
        scores: whether the caller wants the scores that stages give themselves.
    """

    def __init__(self, go_on: GoOn, last: int, rows: int, device: torch.device, scores: bool = False) -> None:
        self.go_on, self.last, self.scores = go_on, last, scores
        self.active = torch.arange(rows, device=device)
        self.stage = torch.zeros(rows, dtype=torch.long, device=device)
        self._latest: Tensor | None = None
        self._entered, self._survivors, self._offset = self.active, self.active, 0

    def active_of(self, rows: int) -> Tensor | None:
        """Rows that go on; None if that is the whole batch."""
        return None if len(self.active) == rows else self.active

    def enter(self, offset: int) -> None:
        """A tier whose first stage is ``offset`` starts on the active rows."""
        self._entered, self._survivors, self._offset = self.active, self.active[:0], offset

    def ask(self, exit_index: int, rows: Tensor, outputs: Tensor, scores: dict[str, Tensor] | None = None) -> Tensor:
        """Record the outputs ``(R, C)`` of a tier's rows ``(R,)`` at one of its exits; which of them go on?"""
        stage = self._offset + exit_index
        batch_rows = self._entered[rows]
        if self._latest is None:
            self._latest = outputs.new_zeros(len(self.stage), outputs.shape[1])
        self._latest[batch_rows] = outputs
        self.stage[batch_rows] = stage
        if stage == self.last:
            keep = torch.zeros_like(batch_rows, dtype=torch.bool)
        else:
            more = (scores or {},) if self.scores else ()
            keep = self.go_on(stage, batch_rows, outputs, *more).to(device=batch_rows.device, dtype=torch.bool)
        self._survivors = batch_rows[keep]
        return keep

    def leave(self, answer: Answer | None = None) -> None:
        """The tier is done: what survived its last exit stays active, the others get their answers.

        Args:
            answer: gives the tier's answers ``(R, C)`` to its rows ``(R,)`` from what decided, where that is not the
                answer itself.
        """
        if answer is not None and self._latest is not None:
            exited = torch.isin(self._entered, self._survivors, invert=True).nonzero()[:, 0]
            batch_rows = self._entered[exited]
            self._latest[batch_rows] = answer(exited, self._latest[batch_rows])
        self.active = self._survivors

    def outputs(self, width: int) -> Tensor:
        """Outputs ``(B, C)`` of the stages that answered."""
        return torch.zeros(0, width) if self._latest is None else self._latest


def _answer(tier: TierContract, encoding: Encoding, state: Any, rows: Tensor, outputs: Tensor) -> Tensor:
    return tier.answer(encoding, rows, outputs, state)


def take_rows(encoding: Encoding, rows: Tensor | None) -> Encoding:
    """The given rows of an encoding, trimmed on the right to the longest of them.

    Args:
        encoding: tensors ``(B, T)``, with ``attention_mask`` where anything is padded.
        rows: ``(R,)`` indices; None for all.

    Returns:
        Tensors ``(R, T')``, ``1 <= T' <= T``.

    Example:
        >>> ids = torch.tensor([[5, 6, 7], [8, 0, 0]])
        >>> take_rows({"input_ids": ids, "attention_mask": ids.clamp(max=1)}, torch.tensor([1]))["input_ids"]
        tensor([[8]])
    """
    if rows is None:
        return encoding
    if "row" in encoding:  # of windows, which know their row
        return take_windows(encoding, rows)
    if "attention_mask" not in encoding:  # nothing is padded
        return {key: value[rows] for key, value in encoding.items()}
    mask = encoding["attention_mask"][rows]
    used = mask.any(dim=0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    return {key: value[rows][:, :width] for key, value in encoding.items()}
