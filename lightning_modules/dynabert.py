"""One set of weights at several widths and depths (DynaBERT, Hou et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from dial.losses import hidden_mse, task_loss
from dial.models.slender.importance import TaylorImportance
from dial.models.slender.subnetworks import (
    FIELD,
    Subnetwork,
    check_subnetworks,
    kept_layers,
    narrowed,
    order_structures,
    trained_at,
)
from dial.tiers.layers import all_layers, check_layers, check_read_by_layers, check_same_layers
from dial.tiers.loading import Tier, View, load_tier
from dial.tiers.multi_exit import MultiExitTier
from dial.tiers.places import check_place
from dial.tiers.reading import read_with
from lightning_modules.base import Batch
from lightning_modules.distillation import Distillation
from lightning_modules.training import check_range


class DynaBERT(Distillation):
    """A classifier whose first heads, neurons and some layers are classifiers, too, all taught by the full network.

    Before the first step heads and neurons are put in the order of their importance (first-order Taylor, of the labels'
    loss on the validation rows), unless ``path`` was trained so before. Each step then sums the losses of the
    sub-networks of all ``widths`` and ``depths``: that of :class:`Distillation`, plus ``hidden_weight`` times the mean
    squared error of the embeddings and of what enters each layer that the sub-network has, and leaves the last.

    The paper's stages are runs of this module: width-adaptive (``depths`` of 1, ``hidden_weight`` 0.1), taught by the
    fine-tuned network; width- and depth-adaptive (``hidden_weight`` 1), which starts from the first and is taught by
    it, each width by the same width; and on demand a last one on labels alone (``distillation_weight`` and
    ``hidden_weight`` 0). ``{path: FOLDER, width: 0.5, depth: 0.75}`` is then a tier.

    Args:
        teacher: tier (folder, or view with ``path``) of the same encoder; one that was itself trained at the student's
            widths teaches each by the same.
        widths: shares of the attention heads and of the feed-forward neurons of each layer; 1 among them.
        depths: shares of the layers; 1 among them.
        hidden_weight: weight of the losses of embeddings and hidden states.
        per_step: sub-networks of each step: the largest, the smallest, and others by chance (the sandwich rule of Yu
            and Huang 2019). Default: all, as in the paper.
        distillation_weight: see :class:`Distillation`; 1 leaves the labels out.
        distillation_temperature: see :class:`Distillation`.
        student: see :class:`Classifier`; ``path`` names a tier that was trained on the task.

    Raises:
        ValueError: an argument is outside its range, heads that a width does not divide, an untrained student, a
            teacher of another encoder, or as for :class:`Distillation`.
    """

    def __init__(
        self,
        teacher: str | dict[str, Any] | None = None,
        widths: list[float] = [0.25, 0.5, 0.75, 1.0],  # noqa: B006  (never changed; the command line shows it)
        depths: list[float] = [1.0],  # noqa: B006
        hidden_weight: float = 0.1,
        per_step: int | None = None,
        distillation_weight: float = 1.0,
        distillation_temperature: float = 1.0,
        **student: Any,
    ) -> None:
        check_range("hidden_weight", hidden_weight, 0.0, float("inf"))
        if per_step is not None and per_step < 2:
            raise ValueError(f"`per_step` must be at least 2, the largest and the smallest, but got {per_step}.")
        super().__init__(
            teacher=teacher,
            distillation_weight=distillation_weight,
            distillation_temperature=distillation_temperature,
            **student,
        )
        for name, values in (("widths", widths), ("depths", depths)):
            if 1 not in values or len(set(values)) < len(values):
                raise ValueError(f"`{name}` must hold 1, the full network, and nothing twice, but got {values}.")
        if not self._trained:
            raise ValueError(
                "`path` must name a tier that was trained on the task, whose heads have an importance, but this model "
                "has an untrained classification head; train it with `dial fit` first."
            )
        if isinstance(self.tier, MultiExitTier):
            raise ValueError(
                f"`path` must be a classifier without exits, but {self.tier.view.path} has {len(self.tier.exits)}; "
                "take the model that they were put on."
            )
        check_layers(self.tier, "path")
        check_subnetworks(self.tier.model, widths, depths, "s")
        assert teacher is not None  # it was asked for above
        self._beside = [self._load_beside(View.parse(teacher, "teacher"))]
        self.hidden_weight, self.per_step = hidden_weight, per_step
        multipliers = {"widths": sorted(map(float, widths)), "depths": sorted(map(float, depths))}
        self.subnetworks = [Subnetwork(*pair) for pair in product(*multipliers.values())][::-1]
        place = check_place(self.tier.view.path, "path")
        self._ordered = trained_at(read_with(AutoConfig, place, "path", "configuration")) is not None
        setattr(self.tier.model.config, FIELD, multipliers)

    def _load_teacher(self, teacher: str | dict[str, Any] | None) -> None:
        """It stays beside the student; see :meth:`_load_beside`."""

    def _load_beside(self, view: View) -> Tier:
        check_read_by_layers(view, "teacher")
        if view.max_length is None:
            view = replace(view, max_length=self.tier.max_length)
        teacher = load_tier(view, "teacher", self.label_names, "teacher")
        check_same_layers(self.tier, teacher, "teacher")
        return teacher.eval().requires_grad_(False)

    @property
    def teacher(self) -> Tier:
        """The tier beside the student."""
        return self._beside[0]

    def on_fit_start(self) -> None:
        """Bring the teacher to work, and put heads and neurons in order, once."""
        super().on_fit_start()
        self.teacher.to(self.device)
        if not self._ordered:
            self.print("order: heads and neurons by their importance on the validation rows")
            importance = self.trainer.strategy.broadcast(self.importance())  # one order for all processes
            order_structures(self.tier.model, importance)
            self._ordered = True

    def importance(self) -> list[Tensor]:
        """Importance ``(count,)`` of heads and neurons: mean over batches of the validation rows, without dropout.

        Heads count by their output projection, which is the gradient of the paper's mask on a head's output.
        """
        taylor = TaylorImportance(self.tier.model, heads="output")
        modes = [(module, module.training) for module in self.tier.modules()]
        self.tier.eval()
        for batch in self.data.inference_loader("validation", self.tier.encoding_key, shard=False):
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            self._label(batch, "validation")
            logits = self(batch["encodings"])[:, -1]
            taylor.update(task_loss(logits, batch["label"], self.task)[None])
            if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                break
        for module, training in modes:
            module.training = training
        return [value.cpu() for value in taylor.mean()]

    def chosen(self) -> list[Subnetwork]:
        """Sub-networks of this step, the largest first."""
        if self.per_step is None or self.per_step >= len(self.subnetworks):
            return self.subnetworks
        first, *others, last = self.subnetworks
        drawn = torch.randperm(len(others))[: self.per_step - 2].sort().values.tolist()
        return [first, *(others[number] for number in drawn), last]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the losses of the sub-networks on one batch, a scalar."""
        losses = dict(self.losses_of(batch, self.chosen()))
        for subnetwork, value in losses.items():
            self.log(f"train/{subnetwork}", value.detach(), batch_size=len(batch["label"]))
        return self.log_loss(torch.stack(list(losses.values())).sum(), batch)

    def losses_of(self, batch: Batch, subnetworks: list[Subnetwork]) -> Iterator[tuple[Subnetwork, Tensor]]:
        """Each sub-network with its loss, a scalar.

        Args:
            batch: as the data module gives it.
            subnetworks: of :attr:`subnetworks`.
        """
        encoding, label = batch["encodings"][self.tier.encoding_key], batch["label"]
        mask, depth = encoding["attention_mask"], self.tier.model.config.num_hidden_layers
        answers: dict[float, tuple[Tensor, list[Tensor]]] = {}
        for subnetwork in subnetworks:
            with narrowed(self.tier.model, subnetwork):
                logits, states = all_layers(self.tier, encoding)
            logits = logits[:, -1]
            if not self.distillation_weight and not self.hidden_weight:
                yield subnetwork, task_loss(logits, label, self.task)
                continue
            if subnetwork.width not in answers:
                answers[subnetwork.width] = self._ask(encoding, subnetwork.width)
            taught, of_teacher = answers[subnetwork.width]
            loss = self.prediction_loss(logits, taught[:, -1], label)
            if self.hidden_weight:
                matched = [of_teacher[number] for number in (*kept_layers(depth, subnetwork.depth), depth)]
                loss = loss + self.hidden_weight * hidden_mse(states, matched, mask)
            yield subnetwork, loss

    @torch.no_grad()
    def _ask(self, encoding: dict[str, Tensor], width: float) -> tuple[Tensor, list[Tensor]]:
        """The teacher's logits and hidden states, at a width that it was trained at, else those of all of it."""
        trained = trained_at(self.teacher.model.config)
        if trained is None or width not in trained["widths"]:
            width = 1.0
        with narrowed(self.teacher.model, Subnetwork(width)):
            return all_layers(self.teacher, encoding)

    @property
    def exit_names(self) -> list[str]:
        """All sub-networks, whose qualities are told."""
        return [str(subnetwork) for subnetwork in self.subnetworks]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the outputs of all sub-networks; metrics are computed over all rows at the end."""
        logits = []
        for subnetwork in self.subnetworks:
            with narrowed(self.tier.model, subnetwork):
                logits.append(self(batch["encodings"])[:, -1].float())
        rows = {"sample_id": batch["sample_id"], "label": batch["label"], "logits": torch.stack(logits, dim=1)}
        self.validation_rows.add(rows)

    def choose(self, values: list[float]) -> float:
        """Mean over all sub-networks."""
        return float(np.mean(values))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Weights from a checkpoint are trained, and in order."""
        super().on_load_checkpoint(checkpoint)
        self._ordered = True
