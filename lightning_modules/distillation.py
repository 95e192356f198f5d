"""Distillation of one tier from another, its teacher."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from dial.losses import logits_mse, soft_cross_entropy, task_loss
from dial.tiers.tier import View
from lightning_modules.base import Batch
from lightning_modules.classifier import Classifier
from lightning_modules.training import check_distillation, check_taught

TEACHER = "teacher"  # as a tokenizer, or as embeddings


class Distillation(Classifier):
    """One sequence classifier (or regressor), trained on labels and on the logits of a teacher.

    The loss is ``(1 - w) * task + w * distillation``: the task's cross-entropy or squared error, and the distillation
    loss of Hinton et al. 2015 (soft cross-entropy, times T²) or of Tang et al. 2019 (squared error between logits).
    The teacher reads the training text once; its logits lie on disk and serve every epoch and every later run.

    Args:
        teacher: tier (folder, or view with ``path``) to distil from.
        distillation: which distillation loss.
        distillation_weight: weight ``w`` between 0 and 1 of the distillation loss.
        distillation_temperature: softens both distributions of ``soft_cross_entropy``.
        student: see :class:`Classifier`; for ``tokenizer`` and ``embeddings`` the word ``teacher`` stands for the
            teacher's, with which both tiers of a cascade read the same tokens and a text is cut once.

    Raises:
        ValueError: an argument is outside its range, there is no teacher, or as for :class:`Classifier`.
    """

    def __init__(
        self,
        teacher: str | dict[str, Any] | None = None,
        distillation: Literal["soft_cross_entropy", "logits_mse"] = "soft_cross_entropy",
        distillation_weight: float = 0.5,
        distillation_temperature: float = 2.0,
        **student: Any,
    ) -> None:
        check_taught(teacher, distillation_weight, distillation_temperature, "labels alone with class_path: Classifier")
        super().__init__(**student)
        if distillation_weight > 0:
            check_distillation(distillation, self.task)
        self.distillation, self.distillation_weight = distillation, distillation_weight
        self.distillation_temperature = distillation_temperature
        self._load_teacher(teacher)

    def _place_of(self, name: str | None) -> str | None:
        return View.parse(self.hparams["teacher"], "teacher").path if name == TEACHER else name

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        logits = self(batch["encodings"])[:, -1]
        return self.log_loss(self.prediction_loss(logits, self._teacher_of(batch, logits), batch["label"]), batch)

    def prediction_loss(self, logits: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """Loss of labels and of the teacher's predictions, a scalar.

        Args:
            logits: of the student, ``(B, C)``.
            teacher: logits ``(B, C)``.
            label: ``(B,)``.
        """
        if self.distillation == "logits_mse":
            taught = logits_mse(logits, teacher)
        else:
            taught = soft_cross_entropy(logits, teacher, self.distillation_temperature)
        loss = task_loss(logits, label, self.task)
        return (1 - self.distillation_weight) * loss + self.distillation_weight * taught
