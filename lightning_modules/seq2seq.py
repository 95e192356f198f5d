"""Training of an encoder-decoder to write answers: label words, numbers, or free text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import cross_entropy

from datamodules.loading import IGNORED, padded_labels
from datamodules.row_tokens import RowTokeniser
from dial.inference.staged import StagedModel
from dial.stages.metrics.metrics import evaluate
from dial.stages.repeats import distinct
from dial.tiers.batch_proof import check_padding
from dial.tiers.text_loading import build_text_tier, load_text_tier
from dial.tiers.text_to_text import TextToTextTier
from dial.tiers.tier import View
from lightning_modules.base import Batch
from lightning_modules.monitored import monitored
from lightning_modules.training import TierModule, check_start


class Seq2Seq(TierModule):
    """One encoder-decoder (T5, BART, Marian, ...), trained under teacher forcing.

    Args:
        path: folder or hub id of a pretrained encoder-decoder; give either this or ``config``.
        config: a transformers configuration (with ``model_type``) of a model to train from scratch.
        tokenizer: for ``config``: folder or hub id, ``pieces`` (the default: byte-pair encoding) or ``characters``,
            which are built from the training text.
        layers: cut both halves to their first layers.
        max_length: tokens kept of each source.
        max_new_tokens: pieces of an answer at most; default: the model's own limit, else 64, or what the data keeps of
            a target (``max_target_length``) where that is more.
        beams: width of the search when validation generates; 1 is greedy.
        validation: ``generation`` writes answers to the validation rows and monitors the task's metrics; ``loss``
            monitors the negative loss per piece, which costs less.
        training: see :class:`~lightning_modules.training.TierModule`; ``label_names`` are the label words, ``*`` alone
            for free text, empty for numbers.

    Raises:
        ValueError: an argument is outside its range, both or neither of ``path`` and ``config`` are given, or the model
            is no encoder-decoder.
    """

    shares_weights = True

    def __init__(
        self,
        path: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        layers: int | None = None,
        max_length: int = 256,
        max_new_tokens: int | None = None,
        beams: int = 1,
        validation: Literal["generation", "loss"] = "generation",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        check_start(path, config)
        if path is not None and tokenizer:
            raise ValueError(
                f"`tokenizer` is for a model from `config`, but got {tokenizer!r} with `path`, which has its own; "
                "leave it out."
            )
        if validation not in ("generation", "loss"):
            raise ValueError(f"`validation` must be generation or loss, but got {validation!r}.")
        self.validation = validation
        if path is not None:
            view = View(path, layers=layers, max_length=max_length, max_new_tokens=max_new_tokens, beams=beams)
            tier = load_text_tier(view, "model", self.label_names, "path", train=True)
        else:
            assert config is not None
            if layers is not None:
                raise ValueError(f"`layers` is for a model from `path`, but got {layers} with `config`; set it there.")
            tier = build_text_tier(
                config, tokenizer or "pieces", self.label_names, max_length, max_new_tokens, beams=beams
            )
        self.network = StagedModel([tier])
        self._trained = path is not None

    @property
    def writer(self) -> TextToTextTier:
        """The model in training."""
        tier: Any = self.tier
        return tier  # type: ignore[no-any-return]

    def fit_tokenizer(self, texts: Callable[[], Iterable[Any]]) -> None:
        """See :class:`TierModule`."""
        super().fit_tokenizer(texts)
        check_padding(self.writer, "config")

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits ``(B, T, V)`` in float32 behind the pieces of each target, and the pieces ``(B, T)``."""
        encoding = dict(batch["encodings"][self.tier.encoding_key])
        labels = encoding.pop("labels", None)
        labels = self._words(batch["label"]) if labels is None else labels
        return self.writer.forced(encoding, labels), labels

    def _words(self, label: Tensor) -> Tensor:
        """Pieces ``(B, T)`` of the classes' names, which are written where the data names no targets."""
        rows = RowTokeniser(self.tier.tokenizer, None, target=True)([self.label_names[i] for i in label.tolist()])
        return padded_labels([np.array(row.ids) for row in rows]).to(label.device)

    def setup(self, stage: str) -> None:
        """Have answers be as long as targets, and refuse numbers, unless the data says how they are written.

        Raises:
            ValueError: naming the remedy.
        """
        super().setup(stage)
        data = self.data
        kept, limit = getattr(data, "max_target_length", None) or 0, self.writer.generation.max_new_tokens
        if kept > limit and self.hparams["max_new_tokens"] is None:
            self.writer.limit_to(kept)
        elif stage == "fit" and kept > limit:
            rank_zero_warn(
                f"targets of up to {kept} pieces are learnt (`data.max_target_length`), but answers end after {limit} "
                "(`model.max_new_tokens`)"
            )
        if stage == "fit" and not self.label_names and not hasattr(data, "references"):
            raise ValueError(
                f"`data` must say how its numbers are written, but {type(data).__name__} does not; take "
                "GLUEAsTextDataModule or TextToTextDataModule, or train a regressor with class_path: Classifier."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss per piece of one batch, a scalar."""
        logits, labels = self._logits(batch)
        return self.log_loss(self.loss(logits, labels, batch), batch)

    def loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """What is minimised, a scalar.

        Args:
            logits: ``(B, T, V)``.
            labels: ``(B, T)``, -100 behind the end.
            batch: whose they are.
        """
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep each row's loss and number of pieces, and its answer where validation generates."""
        logits, labels = self._logits(batch)
        each = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        rows = {
            "sample_id": batch["sample_id"],
            "label": batch["label"],
            "loss": each.sum(dim=1).double(),
            "pieces": (labels != IGNORED).sum(dim=1),
        }
        if self.validation == "generation":
            encoding = batch["encodings"][self.tier.encoding_key]
            every = torch.arange(len(labels), device=labels.device)
            written = self.writer.write({k: v for k, v in encoding.items() if k != "labels"}, every)
            rows |= {"texts": np.array(written.texts, dtype=object), "limited": written.limited}
        self.validation_rows.add(rows)

    def on_validation_epoch_end(self) -> None:
        """Log ``validation/loss`` per piece, the task's metrics, and :func:`monitored` as ``validation/quality``."""
        rows = self.validation_rows.gather()[""]
        kept, _, _ = distinct(rows["sample_id"], None)
        rows = {name: values[kept] for name, values in rows.items()}
        loss = float(rows["loss"].sum() / max(1, rows["pieces"].sum()))
        if not np.isfinite(loss):
            raise ValueError(
                f"`{self.tier.name}` must have a finite loss on validation rows, but got {loss}; lower the learning "
                "rate or clip gradients."
            )
        logged = {"validation/loss": loss, "validation/quality": -loss}
        words = [f"validation/loss {loss:.4f}"]
        if self.validation == "generation":
            values = self.quality(rows)
            logged |= {f"validation/{name}": value for name, value in values.items()}
            logged["validation/quality"] = monitored(next(iter(values.values())), loss)
            words += [f"validation/{name} {100 * value:.2f}" for name, value in values.items()]
            if count := int(rows["limited"].sum()):
                words.append(f"{count:,} of {len(kept):,} answers cut off at {self.writer.generation.max_new_tokens}")
        self.tell_quality(logged, [", ".join(words)])

    def quality(self, rows: dict[str, Any]) -> dict[str, float]:
        """Each metric of the answers to validation rows.

        Args:
            rows: ``label`` and ``texts`` ``(N,)``.
        """
        label, answers = rows["label"], rows["texts"]
        if self.task.written:
            known = self.data.references("validation")
            label = [known[position] for position in label.tolist()]
        else:
            answers = self.task.read(answers)
        return {name: evaluate(name, label, answers) for name in self.metrics_of_rows}
