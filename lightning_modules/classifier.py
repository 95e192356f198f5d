"""Fine-tuning and distillation of one tier."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from dial.inference.staged import StagedModel
from dial.losses import logits_mse, soft_cross_entropy, task_loss
from dial.tiers.loading import read_config
from dial.tiers.places import check_place
from dial.tiers.tiers import Tier, View, build_tier, load_tier
from lightning_modules.base import Batch
from lightning_modules.learning_rate import Schedule
from lightning_modules.training import TierModule, check_distillation, check_range


class Classifier(TierModule):
    """One sequence classifier (or regressor), trained on labels and, if a teacher is given, on its logits.

    The loss is ``(1 - w) * task + w * distillation``: the task's cross-entropy or squared error, and the distillation
    loss of Hinton et al. 2015 (soft cross-entropy, times T²) or of Tang et al. 2019 (squared error between logits).
    The teacher reads the training text once; its logits lie on disk and serve every epoch and every later run.

    Args:
        path: folder or hub id of a pretrained encoder or classifier; give either this or ``config``.
        config: a transformers configuration (with ``model_type``) of a model to train from scratch.
        tokenizer: for ``config``: folder or hub id, or ``words`` (the default), which builds a word-level one from the
            training text.
        layers: cut the encoder, or both halves of an encoder-decoder, to their first layers.
        max_length: tokens kept of each text or pair.
        embeddings: file of word vectors (GloVe text, or parquet) that initialise a word-level model.
        teacher: tier (folder, or view with ``path``) to distil from.
        distillation: which distillation loss; with a teacher, ``soft_cross_entropy`` where none is named.
        distillation_weight: weight ``w`` between 0 and 1 of the distillation loss.
        distillation_temperature: softens both distributions of ``soft_cross_entropy``.
        optimizer: maps parameter groups to an optimiser; biases and norms get no weight decay.
        warmup: share of the steps over which the learning rate rises from 0.
        schedule: course of the learning rate after the warm-up, down to 0 unless constant.
        label_names: see :class:`StagedModule`.
        metrics: see :class:`StagedModule`.

    Raises:
        ValueError: an argument is outside its range, or both or neither of ``path`` and ``config`` are given.
    """

    def __init__(
        self,
        path: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        layers: int | None = None,
        max_length: int = 128,
        embeddings: str | None = None,
        teacher: str | dict[str, Any] | None = None,
        distillation: Literal["soft_cross_entropy", "logits_mse"] | None = None,
        distillation_weight: float = 0.5,
        distillation_temperature: float = 2.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup: float = 0.1,
        schedule: Schedule = "linear",
        label_names: list[str] | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(label_names, metrics, optimizer, warmup, schedule)
        self.save_hyperparameters(ignore=["optimizer"])
        check_range("distillation_weight", distillation_weight, 0.0, 1.0)
        if distillation_temperature <= 0:
            raise ValueError(f"`distillation_temperature` must be above 0, but got {distillation_temperature}.")
        if (path is None) == (config is None):
            raise ValueError(
                "`path` (pretrained) or `config` (from scratch): give exactly one of them, "
                f"but got path={path!r}, config={config!r}."
            )
        if path is not None and (tokenizer or embeddings):
            raise ValueError(
                f"`tokenizer` and `embeddings` are for a model from `config`, but got tokenizer={tokenizer!r}, "
                f"embeddings={embeddings!r} with `path`, which has its own; leave them out."
            )
        if distillation and teacher is None:
            raise ValueError(
                f"`teacher` must name a trained tier to distil from, as `distillation` is {distillation}, but it was "
                "left out; give `--model.teacher FOLDER`, or leave `distillation` out."
            )
        used = teacher is not None and distillation_weight > 0
        check_distillation(distillation or "soft_cross_entropy", used, self.label_names)
        self.distillation, self.distillation_weight = distillation, distillation_weight
        self.distillation_temperature = distillation_temperature
        self.network = StagedModel([self._student(path, config, tokenizer, layers, max_length, embeddings)])
        self._trained = path is not None and read_config(check_place(path, "path"), layers, self.label_names, "path")[1]
        self._load_teacher(teacher)

    def _student(
        self,
        path: str | None,
        config: dict[str, Any] | None,
        tokenizer: str | None,
        layers: int | None,
        max_length: int,
        embeddings: str | None,
    ) -> Tier:
        if path is not None:
            view = View(path=path, layers=layers, max_length=max_length)
            return load_tier(view, "model", self.label_names, "path", train=True)
        assert config is not None
        return build_tier(
            config, tokenizer or "words", self.label_names, max_length, layers=layers, embeddings=embeddings
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        logits = self(batch["encodings"])[:, -1]
        loss = task_loss(logits, batch["label"])
        if self._teacher_logits is not None:
            loss = (1 - self.distillation_weight) * loss + self.distillation_weight * self._distill(logits, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    def _distill(self, logits: Tensor, batch: Batch) -> Tensor:
        teacher = self._teacher_of(batch, logits)
        if self.distillation == "logits_mse":
            return logits_mse(logits, teacher)
        return soft_cross_entropy(logits, teacher, self.distillation_temperature)
