"""Fine-tuning of one tier."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from dial.inference.staged import StagedModel
from dial.losses import task_loss
from dial.tiers.loading import Tier, View, build_tier, load_tier, read_config
from dial.tiers.places import check_place
from lightning_modules.base import Batch
from lightning_modules.training import Schedule, TierModule, check_start


class Classifier(TierModule):
    """One sequence classifier (or regressor), trained on labels: by cross-entropy, or by squared error.

    Args:
        path: folder or hub id of a pretrained encoder or classifier; give either this or ``config``.
        config: a transformers configuration (with ``model_type``) of a model to train from scratch.
        tokenizer: for ``config``: folder or hub id, or ``words`` (the default), which builds a word-level one from the
            training text.
        layers: cut the encoder, or both halves of an encoder-decoder, to their first layers.
        max_length: tokens kept of each text or pair.
        embeddings: for ``config``: what the word embeddings start from: a file of word vectors (GloVe text, or parquet)
            for a word-level model, or a trained model, whose principal components are taken.
        optimizer: maps parameter groups to an optimiser; biases and norms get no weight decay.
        warmup: share of the steps over which the learning rate rises from 0.
        schedule: course of the learning rate after the warm-up, down to 0 unless constant.
        label_names: see :class:`StagedModule`.
        metrics: see :class:`StagedModule`.

    Raises:
        ValueError: an argument is outside its range, or both or neither of ``path`` and ``config`` are given.
    """

    reads_targets = False  # of data whose answers are texts: label words are classes like others

    def __init__(
        self,
        path: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        layers: int | None = None,
        max_length: int = 128,
        embeddings: str | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup: float = 0.1,
        schedule: Schedule = "linear",
        label_names: list[str] | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(label_names, metrics, optimizer, warmup, schedule)
        self.save_hyperparameters(ignore=["optimizer"])
        check_start(path, config)
        if path is not None and (tokenizer or embeddings):
            raise ValueError(
                f"`tokenizer` and `embeddings` are for a model from `config`, but got tokenizer={tokenizer!r}, "
                f"embeddings={embeddings!r} with `path`, which has its own; leave them out."
            )
        self.network = StagedModel([self._student(path, config, tokenizer, layers, max_length, embeddings)])
        self._trained = path is not None and read_config(check_place(path, "path"), layers, self.label_names, "path")[1]

    def _student(
        self,
        path: str | None,
        config: dict[str, Any] | None,
        tokenizer: str | None,
        layers: int | None,
        max_length: int,
        embeddings: str | None,
    ) -> Tier:
        """The tier to train: read from a folder or the hub, or built from a configuration."""
        if path is not None:
            view = View(path=path, layers=layers, max_length=max_length)
            return load_tier(view, "model", self.label_names, "path", train=True)
        assert config is not None
        return build_tier(
            config, tokenizer or "words", self.label_names, max_length, layers=layers, embeddings=embeddings
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        loss = task_loss(self(batch["encodings"])[:, -1], batch["label"], self.task)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]))
        return loss
