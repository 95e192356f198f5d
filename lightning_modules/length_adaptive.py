"""Training of a tier that answers at any length: LengthDrop, sandwich rule, in-place distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dial.losses import logits_mse, soft_cross_entropy, task_loss
from dial.models.lengths import Lengths
from lightning_modules.base import Batch
from lightning_modules.classifier import Classifier
from lightning_modules.training import check_range

IN_PLACE = {"soft_cross_entropy": soft_cross_entropy, "logits_mse": logits_mse}


class LengthAdaptive(Classifier):
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
        check_range("length_drop", length_drop, 0.0, 1.0)
        if length_drop in (0.0, 1.0):
            raise ValueError(f"`length_drop` must be above 0 and below 1, but got {length_drop}.")
        if drawn < 0:
            raise ValueError(f"`drawn` must be 0 or more models, but got {drawn}.")
        super().__init__(**student)
        self.length_drop, self.drawn = length_drop, drawn
        self.tier.drop_tokens(self.shortest)
        self.tier.drop_tokens(None)

    @property
    def depth(self) -> int:
        """Layers of the model."""
        return int(self.tier.model.config.num_hidden_layers)

    @property
    def shortest(self) -> Lengths:
        """The configuration that drops as much as a drawn one may."""
        return self._lengths(torch.full((self.depth,), 1 - self.length_drop))

    def draw(self) -> Lengths:
        """A configuration at random."""
        return self._lengths(1 - self.length_drop * torch.rand(self.depth))

    @staticmethod
    def _lengths(kept_of_before: Tensor) -> Lengths:
        return Lengths(tuple(round(share, 4) for share in kept_of_before.double().cumprod(0).tolist()))

    def logits_with(self, lengths: Lengths | None, batch: Batch) -> Tensor:
        """Logits ``(B, C)`` of a batch where each layer keeps so many tokens; None: all."""
        self.tier.drop_tokens(lengths)
        try:
            return self(batch["encodings"])[:, -1]
        finally:
            self.tier.drop_tokens(None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        logits = self.logits_with(None, batch)
        losses = [task_loss(logits, batch["label"], self.task)]
        taught = IN_PLACE[self.task.distillations[0]]
        for lengths in (self.shortest, *(self.draw() for _ in range(self.drawn))):
            losses.append(taught(self.logits_with(lengths, batch), logits.detach()))
        loss = torch.stack(losses).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    @property
    def exit_names(self) -> list[str]:
        """What is told at the end of an epoch: the model that drops most, and the one that drops nothing."""
        return ["shortest", "whole"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the outputs of both."""
        both = torch.stack([self.logits_with(lengths, batch).float() for lengths in (self.shortest, None)], dim=1)
        self.validation_rows.add({"sample_id": batch["sample_id"], "label": batch["label"], "logits": both})

    def choose(self, values: list[float]) -> float:
        """The mean of both, by which checkpoints are chosen."""
        return sum(values) / len(values)
