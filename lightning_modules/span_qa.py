"""Training of a reader of spans: questions answered by a part of their context."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dial.inference.staged import StagedModel
from dial.losses.spans import carried_over, span_cross_entropy, span_distillation
from dial.models.spans import masked
from dial.stages.metrics.metrics import evaluate
from dial.stages.repeats import distinct
from dial.tiers.places import check_place
from dial.tiers.reading import read_with
from dial.tiers.span_loading import extracts, load_span_tier
from dial.tiers.spans import SpanTier
from dial.tiers.tier import View
from lightning_modules.base import Batch
from lightning_modules.monitored import monitored
from lightning_modules.training import TierModule, check_taught


class SpanQA(TierModule):
    """One encoder (BERT, RoBERTa, MPNet, DistilBERT, ...) that answers questions by spans of their contexts.

    It learns where the answer starts and ends; of a window that does not hold it, the first token (Devlin et al. 2019).

    Args:
        path: folder or hub id of a pretrained encoder, or of one with a head of spans.
        layers: cut the encoder to its first layers.
        max_length: tokens of a window, question and context.
        stride: tokens that two neighbouring windows of a long context share.
        max_answer_tokens: longest span that answers.
        training: see :class:`~lightning_modules.training.TierModule`; ``label_names`` are ``*`` alone, as answers are
            texts.

    Raises:
        ValueError: an argument is outside its range, or the data is not answered by texts.
    """

    reads_targets = False  # answers are places in what is read, and not written

    def __init__(
        self,
        path: str,
        layers: int | None = None,
        max_length: int = 384,
        stride: int = 128,
        max_answer_tokens: int = 30,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        if not self.task.written:
            raise ValueError(
                "`data` must hold questions with contexts (SQuADDataModule, QuestionsDataModule), "
                f"but its answers are {self.task.labels_in_words}."
            )
        view = View(path, layers=layers, max_length=max_length, stride=stride, max_answer_tokens=max_answer_tokens)
        self.network = StagedModel([load_span_tier(view, "model", self.label_names, "path", train=True)])
        config = read_with(_auto_config(), check_place(path, "path"), "path", "configuration")
        self._trained = extracts(config, self.label_names)
        self._validation_loss = 0.0

    @property
    def reader(self) -> SpanTier:
        """The model in training."""
        tier: Any = self.tier
        return tier  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Have "no answer" be an answer where the data says so.

        Raises:
            ValueError: the data's rows are no questions with contexts.
        """
        super().setup(stage)
        data = self.data
        if not hasattr(data, "no_answer"):
            raise ValueError(
                f"`data` must hold questions with contexts, but {type(data).__name__} does not; take SQuADDataModule "
                "or QuestionsDataModule."
            )
        self.reader.no_answer = bool(data.no_answer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the windows of one batch, a scalar."""
        return self.log_loss(self.loss(batch), batch)

    def loss(self, batch: Batch) -> Tensor:
        """What is minimised, a scalar."""
        encoding = batch["encodings"][self.tier.encoding_key]
        return span_cross_entropy(self._logits(encoding), encoding["answer_starts"], encoding["answer_ends"])

    def _logits(self, encoding: dict[str, Tensor]) -> Tensor:
        return masked(self.reader.token_logits(encoding), encoding["starts"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep each row's answers, the loss of its windows, and how many these are."""
        answers, losses = zip(*self.validated(batch), strict=True)
        row = batch["encodings"][self.tier.encoding_key]["row"].cpu()
        rows = {"sample_id": batch["sample_id"], "label": batch["label"], "windows": torch.bincount(row)}
        rows["loss"] = torch.zeros(len(batch["label"]), len(losses), dtype=torch.float64)
        rows["loss"].index_add_(0, row, torch.stack(losses, dim=1).cpu().double())
        rows["texts"] = np.array(answers, dtype=object).T  # (B, E)
        self.validation_rows.add(rows)

    def validated(self, batch: Batch) -> list[tuple[list[str], Tensor]]:
        """Texts that answer a batch's validation rows, and the loss ``(W,)`` of each window.

        Both are of each of what :attr:`exit_names` names, or of the model.
        """
        encoding = batch["encodings"][self.tier.encoding_key]
        logits = self.reader.token_logits(encoding)
        found = self.reader.spans(encoding, logits=logits)
        texts = self.reader.write(encoding, torch.arange(len(batch["label"]), device=self.device), found).texts
        answers = encoding["answer_starts"], encoding["answer_ends"]
        return [(texts, span_cross_entropy(masked(logits, encoding["starts"]), *answers, reduction="none"))]

    def quality_of_validation(self) -> dict[str, list[float]]:
        """See :class:`~lightning_modules.base.StagedModule`; keeps the mean loss of a window, too."""
        rows = self.validation_rows.gather()[""]
        kept, _, _ = distinct(rows["sample_id"], None)
        self._validation_loss = self.choose((rows["loss"][kept].sum(axis=0) / rows["windows"][kept].sum()).tolist())
        known = self.data.references("validation")
        references: Any = [known[position] for position in rows["label"][kept].tolist()]
        columns = rows["texts"][kept].T
        return {name: [evaluate(name, references, column) for column in columns] for name in self.metrics_of_rows}

    def monitored(self, quality: float) -> dict[str, float]:
        """See :class:`~lightning_modules.base.StagedModule`; the loss leads while no answer shares a word."""
        loss = self._validation_loss
        return {"validation/loss": loss, "validation/quality": monitored(quality, loss)}


class SpanDistillation(SpanQA):
    """One encoder that answers by spans, trained on answers and on a teacher's starts and ends.

    The loss is ``(1 - w) * task + w * distillation``, with the soft cross-entropy of both ends, times T² (Hinton et al.
    2015). The teacher may be of another kind, with other pieces: starts are matched by the character at which a token
    begins, ends by that at which it ends. It reads each batch anew, as logits of all tokens of a training set would
    fill a disk.

    Args:
        teacher: tier (folder, or view with ``path``) to distil from.
        distillation_weight: weight ``w`` between 0 and 1 of the distillation loss.
        distillation_temperature: softens both distributions.
        student: see :class:`SpanQA`.

    Raises:
        ValueError: an argument is outside its range, or there is no teacher.
    """

    def __init__(
        self,
        teacher: str | dict[str, Any] | None = None,
        distillation_weight: float = 0.5,
        distillation_temperature: float = 2.0,
        **student: Any,
    ) -> None:
        teacher = check_taught(
            teacher, distillation_weight, distillation_temperature, "answers alone with class_path: SpanQA"
        )
        super().__init__(**student)
        self.distillation_weight, self.distillation_temperature = distillation_weight, distillation_temperature
        view = View.parse(teacher, "teacher")
        self._teacher = [load_span_tier(view, "teacher", self.label_names, "teacher")]

    def on_fit_start(self) -> None:
        """Put the teacher where the student is; it learns nothing."""
        self._teacher[0].requires_grad_(False).eval().to(self.device)

    def loss(self, batch: Batch) -> Tensor:
        """What is minimised, a scalar; see :class:`SpanQA`."""
        encoding = batch["encodings"][self.tier.encoding_key]
        logits = self._logits(encoding)
        task = span_cross_entropy(logits, encoding["answer_starts"], encoding["answer_ends"])
        taught = span_distillation(logits, self._taught(encoding, batch), self.distillation_temperature)
        return (1 - self.distillation_weight) * task + self.distillation_weight * taught

    def _taught(self, encoding: dict[str, Tensor], batch: Batch) -> Tensor:
        """The teacher's logits at the student's tokens."""
        teacher: Any = self._teacher[0]
        read = batch["encodings"][teacher.encoding_key]
        with torch.no_grad():
            logits = teacher.token_logits(read)
        places, to_places = ((each["starts"], each["ends"]) for each in (read, encoding))
        return carried_over(logits, places, read["row"], to_places, encoding["row"])


def _auto_config() -> Any:
    from transformers import AutoConfig  # here, as it takes a second

    return AutoConfig
