"""Distillation of an encoder-decoder from another one, its teacher."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.loading import IGNORED, padded_labels
from datamodules.row_tokens import RowTokeniser
from dial.losses import soft_cross_entropy
from dial.models.encoder_decoder import vocabulary_fingerprint
from dial.tiers.labels import check_targets_agree
from dial.tiers.teacher_texts import teacher_texts
from dial.tiers.text_loading import load_text_tier
from dial.tiers.text_to_text import TextToTextTier
from dial.tiers.tier import View
from lightning_modules.base import Batch
from lightning_modules.seq2seq import Seq2Seq
from lightning_modules.training import check_taught


class Seq2SeqDistillation(Seq2Seq):
    """One encoder-decoder, trained on targets and on a teacher (DE-LANG).

    The loss is ``(1 - w) * task + w * distillation``. ``word``: soft cross-entropy, times T², against the teacher's
    distribution at each piece of the target (Hinton et al. 2015); the teacher computes it anew for each batch, as
    logits over a vocabulary of all training rows would fill a disk. ``sequence``: cross-entropy against the text that
    the teacher writes (Kim and Rush 2016), which is written once and lies on disk for every epoch and every later run;
    of a text that was cut off, by the teacher's limit or the student's, the end is not taught.

    Args:
        teacher: tier (folder, or view with ``path``) to distil from.
        distillation: ``word`` or ``sequence``.
        distillation_weight: weight ``w`` between 0 and 1 of the distillation loss.
        distillation_temperature: softens both distributions of ``word``.
        student: see :class:`Seq2Seq`.

    Raises:
        ValueError: an argument is outside its range, there is no teacher, or it has another vocabulary (``word``).
    """

    def __init__(
        self,
        teacher: str | dict[str, Any] | None = None,
        distillation: Literal["word", "sequence"] = "word",
        distillation_weight: float = 0.5,
        distillation_temperature: float = 2.0,
        **student: Any,
    ) -> None:
        teacher = check_taught(
            teacher, distillation_weight, distillation_temperature, "targets alone with class_path: Seq2Seq"
        )
        if distillation not in ("word", "sequence"):
            raise ValueError(f"`distillation` must be word or sequence, but got {distillation!r}.")
        super().__init__(**student)
        self.distillation, self.distillation_weight = distillation, distillation_weight
        self.distillation_temperature = distillation_temperature
        view = View.parse(teacher, "teacher")
        self._teacher = [load_text_tier(view, "teacher", self.label_names, "teacher")]
        self._texts: dict[int, tuple[str, bool]] = {}

    @property
    def writing_teacher(self) -> TextToTextTier:
        """The teacher, in eval mode and without gradients."""
        tier: Any = self._teacher[0]
        return tier  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Refuse a teacher that was trained to write something else than the data holds."""
        super().setup(stage)
        target = getattr(self.data, "target", None)
        for teacher in self._teacher:
            check_targets_agree({"the teacher": teacher.card.get("target")}, target, "teacher")

    def on_fit_start(self) -> None:
        """Check that teacher and student have the same pieces, or let the teacher write its texts."""
        teacher = self.writing_teacher
        if self.distillation == "word":
            own, others = (vocabulary_fingerprint(tier.tokenizer) for tier in (self.tier, teacher))
            if own != others:
                raise ValueError(
                    f"`teacher` must have the student's pieces for word-level distillation, but {teacher.view.path} "
                    "has others; take its tokenizer for the student, or `distillation: sequence`."
                )
            teacher.requires_grad_(False).to(self.device)
            return
        data = self.data
        self._texts = teacher_texts(
            teacher,
            loader=data.inference_loader("train", teacher.encoding_key, shard=False),
            rows=len(data.rows("train")),
            rows_fingerprint=data.fingerprint("train"),
            cache_dir=data.cache_dir,
            device=self.device,
            rank=self.global_rank,
            barrier=self.trainer.strategy.barrier,
        )
        cut = sum(limited for _, limited in self._texts.values())
        if cut:
            self.print(f"the teacher's text was cut off at its limit in {cut:,} of {len(self._texts):,} rows")
        self._teacher.pop()
        data.use_tokenizers(dict(self.tokenizers()))  # from here on batches need not hold the teacher's encoding

    def loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """What is minimised, a scalar; see :class:`Seq2Seq`."""
        task = super().loss(logits, labels, batch)
        taught = self._by_word(logits, labels, batch) if self.distillation == "word" else self._by_sequence(batch)
        return (1 - self.distillation_weight) * task + self.distillation_weight * taught

    def _by_word(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy with the teacher's distribution at every target token (Kim and Rush 2016, section 3.1)."""
        teacher = self.writing_teacher
        encoding = {k: v for k, v in batch["encodings"][teacher.encoding_key].items() if k != "labels"}
        with torch.no_grad():
            theirs = teacher.forced(encoding, labels)
        there = labels != IGNORED
        pieces = len(self.tier.tokenizer)  # embeddings may be longer than the vocabulary, each as it likes
        student, taught = logits[there][:, :pieces], theirs[there][:, :pieces]
        return soft_cross_entropy(student, taught, self.distillation_temperature)

    def _by_sequence(self, batch: Batch) -> Tensor:
        """Loss against what the teacher wrote; where that was cut, its end is not learned (section 3.2)."""
        texts, cut = zip(*(self._texts[row] for row in batch["sample_id"].tolist()), strict=True)
        limit = self.writer.generation.max_new_tokens
        rows = RowTokeniser(self.tier.tokenizer, limit, target=True)(texts)
        targets = [np.array(row.ids) for row in rows]
        for ids, row, limited in zip(targets, rows, cut, strict=True):
            if (limited or row.truncated) and len(ids) > 1 and ids[-1] == self.tier.tokenizer.eos_token_id:
                ids[-1] = IGNORED
        labels = padded_labels(targets).to(self.device)
        encoding = {k: v for k, v in batch["encodings"][self.tier.encoding_key].items() if k != "labels"}
        return super().loss(self.writer.forced(encoding, labels), labels, batch)
