"""Fine-tuning and distillation of one tier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import Batch, StagedModule
from lightning_modules.inference.sources import check_place, read_config
from lightning_modules.inference.staged import StagedModel
from lightning_modules.inference.teacher import teacher_logits
from lightning_modules.inference.tiers import Tier, View, build_tier, load_tier
from lightning_modules.losses import logits_mse, soft_cross_entropy, task_loss

Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1.0 - float(np.cos(np.pi * left))),
    "constant": lambda left: 1.0,
}


class Classifier(StagedModule):
    """One sequence classifier (or regressor), trained on labels and, if a teacher is given, on its logits.

    The loss is ``(1 - w) * task + w * distillation``: the task's cross-entropy or squared error, and the distillation
    loss of Hinton et al. 2015 (soft cross-entropy, times T²) or of Tang et al. 2019 (squared error between logits).
    The teacher reads the training text once; its logits lie on disk and serve every epoch and every later run.

    Args:
        path: folder or hub id of a pretrained encoder or classifier; give either this or ``config``.
        config: a transformers configuration (with ``model_type``) of a model to train from scratch.
        tokenizer: for ``config``: folder or hub id, or ``words`` (the default), which builds a word-level one from the
            training text.
        layers: cut the encoder to its first layers.
        max_length: tokens kept of each text or pair.
        embeddings: file of word vectors (GloVe text, or parquet) that initialise a word-level model.
        teacher: tier (folder, or view with ``path``) to distil from.
        distillation: which distillation loss.
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
        distillation: Literal["soft_cross_entropy", "logits_mse"] = "soft_cross_entropy",
        distillation_weight: float = 0.5,
        distillation_temperature: float = 2.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup: float = 0.1,
        schedule: Schedule = "linear",
        label_names: list[str] | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(label_names or [], metrics or ["accuracy"])
        self.save_hyperparameters(ignore=["optimizer"])
        check_range("distillation_weight", distillation_weight, 0.0, 1.0)
        check_range("warmup", warmup, 0.0, 1.0)
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
        self.optimizer, self.warmup, self.schedule = optimizer, warmup, schedule
        self.distillation, self.distillation_weight = distillation, distillation_weight
        self.distillation_temperature = distillation_temperature
        self.network = StagedModel([self._student(path, config, tokenizer, layers, max_length, embeddings)])
        self._trained = path is not None and read_config(check_place(path, "path"), layers, self.label_names, "path")[1]
        # In a list, so that the teacher is neither trained, saved, nor moved with the student.
        self._teacher: list[Tier] = []
        if teacher is not None:
            self._teacher = [load_tier(View.parse(teacher, "teacher"), "teacher", self.label_names, "teacher")]
        self._teacher_ids: Tensor | None = None
        self._teacher_logits: np.ndarray | None = None

    @property
    def tier(self) -> Tier:
        """The model in training, with its tokenizer."""
        return self.network.tiers[0]

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

    def tokenizers(self) -> dict[str, tuple[Any, int]]:
        """Those of the student and, for the pass over the training text, of the teacher."""
        known = dict(super().tokenizers())
        known.update({tier.encoding_key: (tier.tokenizer, tier.max_length) for tier in self._teacher})
        return known

    def fit_tokenizer(self, texts: Callable[[], Iterable[Any]]) -> None:
        """Build a word-level tokenizer from the training text; does nothing for a model that has one."""
        self.tier.fit_tokenizer(texts)

    def on_fit_start(self) -> None:
        """Let the teacher read the training text, unless its logits lie on disk already."""
        if not self._teacher:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        teacher = self._teacher.pop()
        ids, logits = teacher_logits(
            teacher,
            loader=data.inference_loader("train", teacher.encoding_key),
            rows=data.rows("train").sample_id,
            rows_fingerprint=data.fingerprint("train"),
            cache_dir=data.cache_dir,
            device=self.device,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            barrier=self.trainer.strategy.barrier,
        )
        self._teacher_ids, self._teacher_logits = torch.tensor(np.array(ids)), logits
        data.use_tokenizers(dict(self.tokenizers()))  # from here on batches need not hold the teacher's encoding

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Weights from a checkpoint are trained."""
        self._trained = True

    def _check_trained(self) -> None:
        if not self._trained and not self.trainer.fast_dev_run:
            raise ValueError(
                "`--ckpt_path` must name a checkpoint of `dial fit`, or `--model.path` a tier that it left, but this "
                "model has an untrained classification head."
            )

    on_test_start = on_predict_start = _check_trained

    def on_validation_start(self) -> None:
        """Refuse `dial validate` of a model that was never trained."""
        if self.trainer.state.fn == "validate":
            self._check_trained()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        logits = self(batch["encodings"])[:, -1]
        loss = task_loss(logits, batch["label"])
        if self._teacher_logits is not None:
            loss = (1 - self.distillation_weight) * loss + self.distillation_weight * self._distill(logits, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    def _distill(self, logits: Tensor, batch: Batch) -> Tensor:
        assert self._teacher_ids is not None and self._teacher_logits is not None
        rows = torch.searchsorted(self._teacher_ids, batch["sample_id"].cpu())
        teacher = torch.from_numpy(self._teacher_logits[rows.numpy()]).to(logits)
        if self.distillation == "logits_mse":
            return logits_mse(logits, teacher)
        return soft_cross_entropy(logits, teacher, self.distillation_temperature)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as ``trainer.gradient_clip_val`` says, fused optimisers under bf16 included.

        Lightning refuses a fused optimiser under any mixed precision, though only fp16 has gradients to unscale.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with decay groups, and a learning rate that rises over ``warmup`` and then follows ``schedule``."""
        optimizer = self.optimizer(decay_groups(self.network))
        total = training_steps(self.trainer)
        factor = LearningRate(total, round(self.warmup * total), self.schedule)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class LearningRate:
    """Factor of the learning rate at a step: linear warm-up from 0, then the schedule down to 0."""

    def __init__(self, total: int, warmup: int, schedule: Schedule) -> None:
        self.total, self.warmup, self.schedule = total, warmup, schedule

    def __call__(self, step: int) -> float:
        """Factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        left = max(0.0, (self.total - step) / max(1, self.total - self.warmup))
        return SCHEDULES[self.schedule](left)


def training_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole fit.

    ``trainer.estimated_stepping_batches`` would build the loaders before a checkpoint's loop state is restored, and
    Lightning then never hands that state to them: a resumed run would start its epoch again at the first batch.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = data.train_batches()
    limit = trainer.limit_train_batches
    if trainer.overfit_batches:
        limit = trainer.overfit_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = -(-batches // trainer.accumulate_grad_batches)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    total = min(steps * epochs, math.inf if trainer.max_steps == -1 else trainer.max_steps)
    if not math.isfinite(total):
        raise ValueError("`trainer.max_epochs` or `trainer.max_steps` must be given: the schedule needs an end.")
    return max(1, int(total))


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two optimiser groups: matrices, with the optimiser's weight decay, and vectors (biases, norms), without any."""
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def check_range(argument: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError that names ``argument`` if ``value`` is outside ``[low, high]``."""
    if not low <= value <= high:
        raise ValueError(f"`{argument}` must lie between {low:g} and {high:g}, but got {value}.")
