"""Distillation of what happens inside a transformer: embeddings, hidden states and attention, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dial.losses import attention_mse, hidden_cosine, hidden_mse
from dial.models.attention_scores import AttentionScores
from dial.tiers.alignment import align, at_pairs, at_places, longer_by
from dial.tiers.layers import (
    all_layers,
    check_layers,
    check_map,
    check_read_by_layers,
    copy_layers,
    layers_of,
    uniform_map,
)
from dial.tiers.loading import Tier, View, load_tier
from dial.tiers.places import check_place
from dial.tiers.reading import read_tokenizer
from lightning_modules.base import Batch
from lightning_modules.distillation import Distillation
from lightning_modules.training import check_range

WEIGHTS = ("embedding_weight", "hidden_weight", "attention_weight", "cosine_weight")


class TransformerDistillation(Distillation):
    """One transformer, taught layer by layer by a teacher that runs beside it.

    The loss is ``prediction_weight`` times that of :class:`Distillation`, plus the weighted losses of TinyBERT (Jiao et
    al. 2020, Eq. 7 to 9: attention scores before their softmax, hidden states and embeddings, the latter two through
    learned projections) and of DistilBERT (Sanh et al. 2019: cosine of the last hidden states). Padding counts nowhere.

    With ``prediction_weight`` 0 nothing is asked of the head: the data need no labels, the teacher no head, the best
    checkpoint is that of the smallest loss, and the tier is saved as an encoder without a head. That is TinyBERT's
    general distillation and the first of its two phases for a task; the second is a :class:`Distillation` from there.

    A teacher of another tokenizer is taken where both cut texts into the same pieces (MPNet and BERT do).

    Args:
        teacher: tier (folder, or view with ``path``) to distil from; without a head where none is asked.
        layer_map: the teacher's layer that teaches each of the student's, counted from 1. Default: uniform.
        start_layers: the teacher's layers whose weights the student's start from, counted from 1; ``every_second`` as
            in DistilBERT. Default: the student keeps its own.
        prediction_weight: weight of the loss of labels and of the teacher's predictions.
        embedding_weight: weight of the mean squared error of embeddings.
        hidden_weight: weight of that of hidden states, summed over layers.
        attention_weight: weight of that of attention scores, summed over layers.
        cosine_weight: weight of one minus the cosine of the last hidden states.
        student: see :class:`Distillation`.

    Raises:
        ValueError: an argument is outside its range, student and teacher do not fit, or as for :class:`Distillation`.
    """

    def __init__(
        self,
        teacher: str | dict[str, Any] | None = None,
        layer_map: list[int] | None = None,
        start_layers: list[int] | Literal["every_second"] | None = None,
        prediction_weight: float = 0.0,
        embedding_weight: float = 1.0,
        hidden_weight: float = 1.0,
        attention_weight: float = 1.0,
        cosine_weight: float = 0.0,
        **student: Any,
    ) -> None:
        weights = dict(zip(WEIGHTS, (embedding_weight, hidden_weight, attention_weight, cosine_weight), strict=True))
        for name, value in {"prediction_weight": prediction_weight, **weights}.items():
            check_range(name, value, 0.0, float("inf"))
        if not any(weights.values()):
            raise ValueError(
                f"`hidden_weight` or another of {', '.join(WEIGHTS)} must be above 0, but all are 0; to distil "
                "predictions alone take class_path: Distillation."
            )
        super().__init__(teacher=teacher, **student)
        self.prediction_weight, self.weights = prediction_weight, weights
        assert teacher is not None  # it was asked for above
        self._beside = [self._load_beside(View.parse(teacher, "teacher"))]
        own, other = (check_layers(tier, name) for tier, name in ((self.tier, "path"), (self._beside[0], "teacher")))
        self.layer_map = uniform_map(own, other) if layer_map is None else list(layer_map)
        check_map(self.layer_map, own, other, "layer_map")
        if start_layers is not None:
            chosen = list(range(1, 2 * own, 2)) if start_layers == "every_second" else list(start_layers)
            check_map(chosen, own, other, "start_layers")
            copy_layers(self.tier, self._beside[0], chosen, "start_layers")
        self.projections = self._projections()
        self._scores = self._watched(own) if attention_weight else None
        self.tier.keep_head = prediction_weight > 0

    def _load_teacher(self, teacher: str | dict[str, Any] | None) -> None:
        """It stays beside the student; see :meth:`_load_beside`."""

    def _load_beside(self, view: View) -> Tier:
        """The teacher, which keeps as much of a text as the student, and in ``_align`` which tokens are which."""
        own = self.tier
        if own.tokenizer is None:
            raise ValueError(
                "`tokenizer` must cut texts into the pieces of the teacher, as token teaches token, but got words "
                "of the training text; give `--model.tokenizer FOLDER`."
            )
        check_read_by_layers(view, "teacher")
        tokenizer = read_tokenizer(check_place(view.path, "teacher"), "teacher")
        # In a list: its tables are no part of the model that is saved and trained.
        self._align = [align(own.tokenizer, tokenizer, "teacher")]
        if view.max_length is None or self._align[0] is None:
            view = replace(view, max_length=own.max_length + longer_by(own.tokenizer, tokenizer))
        teacher = load_tier(view, "teacher", self.label_names, "teacher", head=self.prediction_weight > 0)
        if teacher.max_length < own.max_length:
            raise ValueError(
                f"`max_length` must be at most the teacher's {teacher.max_length} where token teaches token, but got "
                f"{own.max_length}."
            )
        return teacher.eval().requires_grad_(False)

    def _projections(self) -> nn.ModuleDict:
        """Linear maps from the student's width to the teacher's, where a loss compares both."""
        own, other = (tier.model.config.hidden_size for tier in (self.tier, self._beside[0]))
        if self.weights["cosine_weight"] and own != other:
            raise ValueError(
                f"`cosine_weight` needs a student as wide as its teacher, but got {own} and {other} hidden units; take "
                "cosine_weight 0, with hidden_weight, which has a projection."
            )
        wanted = [name for name in ("embedding", "hidden") if self.weights[f"{name}_weight"]]
        made = nn.ModuleDict({name: nn.Linear(own, other, bias=False) for name in wanted})
        for linear in made.values() if own == other else ():
            nn.init.eye_(linear.weight)  # type: ignore[arg-type]  # a student may start as a part of its teacher
        return made

    def _watched(self, depth: int) -> tuple[AttentionScores, AttentionScores]:
        """Readers of the attention scores of student and teacher."""
        own = AttentionScores(layers_of(self.tier), range(1, depth + 1), "path")
        other = AttentionScores(layers_of(self._beside[0]), sorted(set(self.layer_map)), "teacher")
        for number, taught_by in enumerate(self.layer_map, 1):
            heads = own.heads(number), other.heads(taught_by)
            if heads[0] != heads[1]:
                raise ValueError(
                    f"`attention_weight` needs the teacher's heads in each layer, but layer {number} of the student "
                    f"has {heads[0]}, and layer {taught_by} of the teacher {heads[1]}; take attention_weight 0, or a "
                    f"student of {heads[1]} heads."
                )
        return own, other

    @property
    def learner(self) -> nn.Module:
        """Student and projections."""
        return nn.ModuleList([self.network, self.projections])

    @property
    def teacher(self) -> Tier:
        """The tier beside the student."""
        return self._beside[0]

    @property
    def tiers_at_work(self) -> list[Tier]:
        """Student and teacher, which reads every batch, too."""
        return [*self.network.tiers, *self._beside]

    def on_fit_start(self) -> None:
        """Bring the teacher to work; its answers are asked for only where predictions count."""
        if self.prediction_weight:
            super().on_fit_start()
        for module in (*self._beside, *self._align):
            if module is not None:
                module.to(self.device)

    def inner_losses(self, encodings: Mapping[str, dict[str, Tensor]]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Logits of student and teacher, both ``(B, C)``, and each loss of the layers by its weight's name.

        Args:
            encodings: of a batch, by the tokenizers' keys.
        """
        teacher, alignment = self._beside[0], self._align[0]
        own = encodings[self.tier.encoding_key]
        other = own if alignment is None else encodings[teacher.encoding_key]
        if self._scores is None:
            logits, states = all_layers(self.tier, own)
            with torch.no_grad():
                taught, of_teacher = all_layers(teacher, other)
        else:
            with self._scores[0].watch():
                logits, states = all_layers(self.tier, own)
            with self._scores[1].watch(), torch.no_grad():
                taught, of_teacher = all_layers(teacher, other)
        places, mask = (None, own["attention_mask"]) if alignment is None else alignment(own, other)
        chosen = [of_teacher[number] for number in (0, *self.layer_map, -1)]
        if places is not None:
            chosen = [at_places(state, places) for state in chosen]
        losses = {}
        if self.weights["embedding_weight"]:
            losses["embedding_weight"] = hidden_mse([self.projections["embedding"](states[0])], chosen[:1], mask)
        if self.weights["hidden_weight"]:
            projected = [self.projections["hidden"](state) for state in states[1:]]
            losses["hidden_weight"] = hidden_mse(projected, chosen[1:-1], mask)
        if self._scores is not None:
            losses["attention_weight"] = self._attention_loss(places, mask)
        if self.weights["cosine_weight"]:
            losses["cosine_weight"] = hidden_cosine(states[-1], chosen[-1], mask)
        return logits[:, -1], taught[:, -1], losses

    def _attention_loss(self, places: Tensor | None, mask: Tensor) -> Tensor:
        assert self._scores is not None
        own, other = self._scores
        student = [own.scores(number) for number in range(1, len(self.layer_map) + 1)]
        teacher = [other.scores(number) for number in self.layer_map]
        if places is not None:
            teacher = [at_pairs(scores, places) for scores in teacher]
        return attention_mse(student, teacher, mask)

    def _inner_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of student and teacher, and the weighted sum of what the layers lose."""
        logits, taught, losses = self.inner_losses(batch["encodings"])
        for name, value in losses.items():
            self.log(f"{'train' if self.training else 'validation'}/{name[: -len('_weight')]}", value.detach(),
                     batch_size=len(logits), sync_dist=not self.training)  # fmt: skip
        return logits, taught, torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        logits, taught, loss = self._inner_loss(batch)
        if self.prediction_weight:
            loss = loss + self.prediction_weight * self.prediction_loss(logits, taught.to(logits), batch["label"])
        else:
            loss = loss + 0.0 * logits.sum()  # DDP waits for a gradient of every parameter
        return self.log_loss(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """As for every classifier; the loss is the quality where the head is not trained."""
        if self.prediction_weight:
            super().validation_step(batch, batch_idx)
            return
        loss = self._inner_loss(batch)[2]
        self.log("validation/quality", -loss, batch_size=len(batch["sample_id"]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """As for every classifier; nothing more is known where the head is not trained."""
        if self.prediction_weight:
            super().on_validation_epoch_end()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Weights from a checkpoint are trained; a head that nothing was asked of is not."""
        super().on_load_checkpoint(checkpoint)
        self._trained = self.prediction_weight > 0
