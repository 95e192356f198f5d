"""Fine-tuning of one tier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dial.inference.staged import StagedModel
from dial.losses import task_loss
from dial.tiers.loading import View, build_tier, load_tier, read_config
from dial.tiers.places import check_place
from lightning_modules.base import Batch
from lightning_modules.training import TierModule, check_labels, check_start


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
        training: see :class:`~lightning_modules.training.TierModule`.

    Raises:
        ValueError: an argument is outside its range, both or neither of ``path`` and ``config`` are given, or the data
            is answered by texts.
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
        **training: Any,
    ) -> None:
        super().__init__(**training)
        check_labels(self.task)
        check_start(path, config)
        if path is not None and (tokenizer or embeddings):
            raise ValueError(
                f"`tokenizer` and `embeddings` are for a model from `config`, but got tokenizer={tokenizer!r}, "
                f"embeddings={embeddings!r} with `path`, which has its own; leave them out."
            )
        if path is not None:
            view = View(path=path, layers=layers, max_length=max_length)
            tier = load_tier(view, "model", self.label_names, "path", train=True)
            self._trained = read_config(check_place(path, "path"), layers, self.label_names, "path")[1]
        else:
            assert config is not None
            read = self._place_of(tokenizer) or "words"
            vectors = self._place_of(embeddings)
            tier = build_tier(config, read, self.label_names, max_length, layers=layers, embeddings=vectors)
        self.network = StagedModel([tier])

    def _place_of(self, name: str | None) -> str | None:
        """Where a tokenizer or embeddings lie; a subclass may have names for such places."""
        return name

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        return self.log_loss(task_loss(self(batch["encodings"])[:, -1], batch["label"], self.task), batch)
