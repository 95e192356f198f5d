"""Training of a tier that answers at any length: LengthDrop, sandwich rule, in-place distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dial.losses import in_place_distillation, task_loss
from dial.losses.spans import span_cross_entropy, span_distillation
from dial.models.lengths import LengthDrop, Lengths
from dial.tiers.tier import Tier
from lightning_modules.base import Batch
from lightning_modules.classifier import Classifier
from lightning_modules.span_qa import SpanQA


class ValidatedAtBothEnds:
    """Validation of a model with most tokens dropped and with none."""

    @property
    def exit_names(self) -> list[str]:
        """What is told at the end of an epoch: the model that drops most, and the one that drops nothing."""
        return ["shortest", "whole"]

    def choose(self, values: list[float]) -> float:
        """The mean of both, by which checkpoints are chosen."""
        return sum(values) / len(values)


class LengthAdaptive(ValidatedAtBothEnds, Classifier):
    """One sequence classifier (or regressor) that is trained to do without tokens (Kim and Cho 2021, section 3).

    At every step the model with all tokens learns the labels, and models that drop tokens learn its predictions
    (in-place distillation): the one that drops most, and some drawn at random between the two (the sandwich rule). A
    drawn model keeps in each layer a share of what the layer before kept, drawn evenly from ``1 - length_drop`` to 1
    (LengthDrop); shares are of each row's own tokens. The loss is the mean over these models. What is left is an
    ordinary tier: the ``lengths`` of a tier's spec say what it drops, and ``dial lengths`` searches for the best.

    The paper starts from a model that was fine-tuned before: give such a tier as ``path``.

    Args:
        length_drop: share of its tokens that a layer drops at most, above 0 and below 1.
        drawn: models drawn at random in each step.
        student: see :class:`Classifier`.

    Raises:
        ValueError: an argument is outside its range, the model allows no tokens to be dropped, or as for
            :class:`Classifier`.
    """

    def __init__(self, length_drop: float = 0.2, drawn: int = 2, **student: Any) -> None:
        super().__init__(**student)
        self.length_drop = _length_drop(
            self.tier, length_drop, drawn, "Classifier", "config" if student.get("path") is None else "path"
        )

    def logits_with(self, lengths: Lengths | None, batch: Batch) -> Tensor:
        """Logits ``(B, C)`` of a batch where each layer keeps so many tokens; None: all."""
        with self.tier.at_lengths(lengths):
            return self(batch["encodings"])[:, -1]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        logits = self.logits_with(None, batch)
        losses = [task_loss(logits, batch["label"], self.task)]
        for lengths in self.length_drop.of_step():
            losses.append(in_place_distillation(self.logits_with(lengths, batch), logits, self.task))
        return self.log_loss(torch.stack(losses).mean(), batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the outputs of both."""
        both = torch.stack(
            [self.logits_with(lengths, batch).float() for lengths in (self.length_drop.shortest, None)], dim=1
        )
        self.validation_rows.add({"sample_id": batch["sample_id"], "label": batch["label"], "logits": both})


class LengthAdaptiveSpanQA(ValidatedAtBothEnds, SpanQA):
    """One reader of spans that is trained to do without tokens, as :class:`LengthAdaptive` is.

    Dropped tokens come back before the head with the last state that they had (drop-and-restore), so that they may be
    in an answer. Each model that drops some learns the starts and ends of the whole one.

    Args:
        length_drop: share of its tokens that a layer drops at most, above 0 and below 1.
        drawn: models drawn at random in each step.
        student: see :class:`SpanQA`; give a tier of :class:`SpanDistillation` as ``path`` for one that was distilled.

    Raises:
        ValueError: as for :class:`LengthAdaptive` and :class:`SpanQA`.
    """

    def __init__(self, length_drop: float = 0.2, drawn: int = 2, **student: Any) -> None:
        super().__init__(**student)
        self.length_drop = _length_drop(self.tier, length_drop, drawn, "SpanQA")

    def loss(self, batch: Batch) -> Tensor:
        """What is minimised, a scalar."""
        encoding = batch["encodings"][self.tier.encoding_key]
        whole = self._logits(encoding)
        losses = [span_cross_entropy(whole, encoding["answer_starts"], encoding["answer_ends"])]
        for lengths in self.length_drop.of_step():
            with self.tier.at_lengths(lengths):
                losses.append(span_distillation(self._logits(encoding), whole.detach(), 1.0))
        return torch.stack(losses).mean()

    def validated(self, batch: Batch) -> list[tuple[list[str], Tensor]]:
        """Answers and losses of both."""
        with self.tier.at_lengths(self.length_drop.shortest):
            shortest = super().validated(batch)
        return shortest + super().validated(batch)


def _length_drop(tier: Tier, length_drop: float, drawn: int, plain: str, argument: str = "path") -> LengthDrop:
    """Configurations to train a tier with.

    Args:
        tier: in training.
        length_drop: see :class:`LengthAdaptive`.
        drawn: see there.
        plain: class that trains one with all tokens.
        argument: what the tier was made of.

    Raises:
        ValueError: an argument is outside its range, or the tier allows no tokens to be dropped.
    """
    made = LengthDrop(int(tier.model.config.num_hidden_layers), length_drop, drawn)
    tier.drop_tokens(made.shortest, argument, f"train this one with all tokens by class_path: {plain}")
    tier.drop_tokens(None)
    return made
