"""What every module that trains one tier shares: teacher, optimiser, course of the learning rate, checks."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from dial.models.sharding import whole_weights
from dial.models.slender.encoder import cut_in_place, make_room
from dial.models.slender.structures import has_masks
from dial.stages.task import Task
from dial.tiers.batch_proof import settle
from dial.tiers.loading import Tier, View, load_tier
from dial.tiers.teacher import teacher_logits
from lightning_modules.base import Batch, StagedModule
from lightning_modules.optimizers import SizedAdamW


def start_choosing(trainer: Trainer) -> None:
    """Let the choice of the best checkpoint and early stopping begin anew."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            callback.best_k_models, callback.kth_best_model_path = {}, ""
            callback.best_model_path, callback.best_model_score = "", None
            callback.current_score, callback.kth_value = None, torch.tensor(worst(callback.mode))
        elif isinstance(callback, EarlyStopping):
            callback.wait_count, callback.best_score = 0, torch.tensor(worst(callback.mode))


def stopped_early(trainer: Trainer) -> bool:
    """Whether early stopping ended a fit."""
    stoppers = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]  # type: ignore[attr-defined]
    return any(c.wait_count >= c.patience for c in stoppers)


def worst(mode: str) -> float:
    """The value that every other one improves on."""
    return float("inf") if mode == "min" else float("-inf")


Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1.0 - float(np.cos(np.pi * left))),
    "constant": lambda left: 1.0,
}


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


class StagedRate:
    """Factor of the learning rate where each stage warms up and falls by itself.

    Args:
        ends: step after the last of each stage.
        warmup: share of a stage's steps.
        schedule: see :class:`LearningRate`.

    Example:
        >>> rate = StagedRate([2, 4], 0.0, "linear")
        >>> [rate(step) for step in range(4)]
        [1.0, 0.5, 1.0, 0.5]
    """

    def __init__(self, ends: list[int], warmup: float, schedule: Schedule) -> None:
        # Plain values: checkpoints keep the attributes of a scheduler's function.
        self.ends, self.warmup, self.schedule = list(ends), warmup, schedule

    def __call__(self, step: int) -> float:
        """Factor at a step, counted from 0."""
        stage = min(bisect_right(self.ends, step), len(self.ends) - 1)
        begin = self.ends[stage - 1] if stage else 0
        total = self.ends[stage] - begin
        return LearningRate(total, round(self.warmup * total), self.schedule)(step - begin)


class TierModule(StagedModule):
    """Trains the only tier of its network, with a teacher where one is given.

    A subclass sets ``network``, loads its teacher with :meth:`_load_teacher`, and has a ``training_step``. Its further
    arguments are kept in checkpoints, but for those that are no plain values.

    Attributes:
        trains_head: whether what is trained is a head that decides, and not what answers.

    Args:
        optimizer: maps parameter groups to an optimiser; biases and norms get no weight decay.
        warmup: share of the steps over which the learning rate rises from 0.
        schedule: course of the learning rate after the warm-up, down to 0 unless constant.
        label_names: see :class:`StagedModule`.
        metrics: see :class:`StagedModule`.

    Raises:
        ValueError: ``warmup`` is outside its range.
    """

    trains_head: ClassVar[bool] = False

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup: float = 0.1,
        schedule: Schedule = "linear",
        label_names: list[str] | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(label_names, metrics)
        self.save_hyperparameters(ignore=["optimizer", "policy"])
        check_range("warmup", warmup, 0.0, 1.0)
        self.optimizer, self.warmup, self.schedule = optimizer, warmup, schedule
        self._trained = False
        # In a list, so that the teacher is neither trained, saved, nor moved with the student.
        self._teacher: list[Tier] = []
        self._teacher_ids: Tensor | None = None
        self._teacher_logits: np.ndarray | None = None
        self._answers: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def tier(self) -> Tier:
        """The model in training, with its tokenizer."""
        return self.network.tiers[0]

    def whole_tier(self) -> Tier:
        """The tier with all its weights, of rank 0; collective where ranks share them."""
        if not self._whole:
            return self.tier
        state, (tier,) = whole_weights(self.tier), self._whole
        if state:
            tier.load_state_dict(state, assign=True)
            tier.model.tie_weights()
        return tier

    @property
    def learner(self) -> nn.Module:
        """What the optimiser trains; a subclass may learn more than its network."""
        return self.network

    def _load_teacher(self, teacher: str | dict[str, Any] | None) -> None:
        if teacher is not None:
            self._teacher = [load_tier(View.parse(teacher, "teacher"), "teacher", self.label_names, "teacher")]

    @property
    def tiers_at_work(self) -> list[Tier]:
        """The student and, for the pass over the training text, the teacher."""
        return [*super().tiers_at_work, *self._teacher]

    def fit_tokenizer(self, texts: Callable[[], Iterable[Any]]) -> None:
        """Build a word-level tokenizer from the training text; does nothing for a model that has one."""
        if self.tier.tokenizer is None:
            self.tier.fit_tokenizer(texts)
            settle(self.tier, "config", place="the training text")

    def on_fit_start(self) -> None:
        """Let the teacher read the training text, unless its logits lie on disk already."""
        if not getattr(self.data, "labelled", True):
            self._answers = {role: self._answers_of(role, "`label_column` is none") for role in ("train", "validation")}
        elif getattr(self.data, "augmentation", None) is not None:
            self._answers = {"train": self._answers_of("train", "the texts of `--data.augmentation` have none")}
        if self._teacher:
            self._read_teacher(self._teacher.pop())

    def _answers_of(self, role: str, reason: str) -> tuple[Tensor, Tensor]:
        """The teacher's answers for a role's rows, which stand in for labels that nobody has: ids and answers ``(N,)``.

        Raises:
            ValueError: there is no teacher.
        """
        if (teacher := self.teacher) is None:
            raise ValueError(
                f"`--model.teacher` must name a tier whose answers stand in for labels, as {reason}, but there is no "
                "teacher; give `--model.teacher FOLDER`, or leave out rows without labels."
            )
        ids, logits = self._logits_of(teacher, role)
        return torch.tensor(np.array(ids)), torch.tensor(self.task.predict(np.array(logits)))

    @property
    def teacher(self) -> Tier | None:
        """The tier that teaches, until it has read the training text."""
        return self._teacher[0] if self._teacher else None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Give rows without labels the teacher's answers."""
        self._label(batch, "train")

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Give rows without labels the teacher's answers."""
        self._label(batch, "validation")

    def _label(self, batch: Batch, role: str) -> None:
        if role in self._answers:
            ids, answers = self._answers[role]
            label = batch["label"]
            hidden = label.isnan() if label.is_floating_point() else label < 0
            rows = torch.searchsorted(ids, batch["sample_id"].cpu())
            batch["label"] = torch.where(hidden, answers[rows].to(label), label)

    def _read_teacher(self, teacher: Tier) -> None:
        """Keep the teacher's logits of the training text, from here on without the teacher."""
        ids, logits = self._logits_of(teacher, "train")
        self._teacher_ids, self._teacher_logits = torch.tensor(np.array(ids)), logits
        self.data.use_tokenizers(dict(self.tokenizers()))  # from here on batches need not hold the teacher's encoding

    def _logits_of(self, teacher: Tier, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids ``(N,)`` and the teacher's logits ``(N, C)`` of a role's rows, from the disk where they lie there."""
        data = self.data
        return teacher_logits(
            teacher,
            loader=data.inference_loader(role, teacher.encoding_key),
            rows=data.rows(role).sample_id,
            rows_fingerprint=data.fingerprint(role),
            cache_dir=data.cache_dir,
            device=self.device,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            barrier=self.trainer.strategy.barrier,
        )

    def check_complete(self) -> None:
        """Refuse a training that ended before all was trained; a subclass says when that is."""

    def on_train_end(self) -> None:
        """Refuse to go on from such a training."""
        self.check_complete()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Weights from a checkpoint are trained.

        Those of a run with slenderisation need room for their masks; unless the run goes on, what is masked is cut, so
        that costs and times are those of the slender model.
        """
        self._trained = True
        if "state_dict" not in checkpoint:  # ranks that share weights have read theirs
            return
        model, state = self.tier.model, checkpoint["state_dict"]
        make_room(model, state)
        goes_on = self._trainer is not None and self.trainer.state.fn == "fit"
        if has_masks(state) and not goes_on:
            self.load_state_dict(state)
            cut_in_place(model)
            checkpoint["state_dict"] = self.state_dict()

    def _check_trained(self) -> None:
        if not self._trained and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ValueError(
                "`--ckpt_path` must name a checkpoint of `dial fit`, or `--model.path` a tier that it left, but this "
                "model has an untrained classification head."
            )

    on_test_start = on_predict_start = _check_trained

    def on_validation_start(self) -> None:
        """Refuse `dial validate` of a model that was never trained."""
        if self.trainer.state.fn == "validate":
            self._check_trained()

    def _teacher_of(self, batch: Batch, like: Tensor) -> Tensor:
        """The teacher's logits ``(B, C)`` of a batch's rows, as numbers like those of ``like``."""
        assert self._teacher_ids is not None and self._teacher_logits is not None
        rows = torch.searchsorted(self._teacher_ids, batch["sample_id"].cpu())
        return torch.from_numpy(self._teacher_logits[rows.numpy()]).to(like)

    def log_loss(self, loss: Tensor, batch: Batch) -> Tensor:
        """The loss of a step, a scalar, which is logged as ``train/loss``."""
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]))
        return loss

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
            nn.utils.clip_grad_norm_(self.learner.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """AdamW with decay groups, and a learning rate that rises over ``warmup`` and then follows ``schedule``.

        Raises:
            ValueError: the optimiser refuses its arguments.
        """
        try:
            optimizer = self.optimizer(decay_groups(self.learner))
        except ValueError as error:  # a rate below 0
            raise ValueError(f"`optimizer` must have arguments that it takes: {str(error).rstrip('.')}.") from error
        if isinstance(optimizer, SizedAdamW):
            optimizer.set_width(getattr(self.tier.model.config, "hidden_size", None))
        factor = self.learning_rate(training_steps(self.trainer))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate(self, total: int) -> Callable[[int], float]:
        """Factor of the learning rate at each of ``total`` steps."""
        return LearningRate(total, round(self.warmup * total), self.schedule)


def steps_of_epoch(trainer: Trainer) -> int:
    """Optimiser steps of one epoch.

    Lightning's own numbers would build the loaders before a checkpoint's loop state is restored, and Lightning then
    never hands that state to them: a resumed run would start its epoch again at the first batch.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = data.train_batches()
    limit = trainer.limit_train_batches
    limit = trainer.overfit_batches or limit  # type: ignore[attr-defined]  # set by a connector
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return -(-batches // trainer.accumulate_grad_batches)


def training_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole fit, for which ``trainer.estimated_stepping_batches`` must not be asked.

    Raises:
        ValueError: the fit has no end.
    """
    steps = steps_of_epoch(trainer)
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
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def check_range(argument: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError that names ``argument`` if ``value`` is outside ``[low, high]``."""
    if not low <= value <= high:
        raise ValueError(f"`{argument}` must lie between {low:g} and {high:g}, but got {value}.")


def check_taught(
    teacher: str | dict[str, Any] | None, weight: float, temperature: float, alone: str
) -> str | dict[str, Any]:
    """Check the arguments that every distillation has; gives the teacher.

    Args:
        teacher: as given.
        weight: of the teacher's answers.
        temperature: of both models' logits.
        alone: what to train on without a teacher, and by which class.

    Raises:
        ValueError: a number is outside its range, or there is no teacher.
    """
    check_range("distillation_weight", weight, 0.0, 1.0)
    if temperature <= 0:
        raise ValueError(f"`distillation_temperature` must be above 0, but got {temperature}.")
    if teacher is None:
        raise ValueError(
            "`teacher` must name a trained tier to distil from, but it was left out; give `--model.teacher FOLDER`"
            f", or train on {alone}."
        )
    return teacher


def check_distillation(distillation: str, task: Task) -> None:
    """Raise a ValueError where a teacher's number, in regression, would be taken for a distribution.

    Args:
        distillation: which loss.
        task: of the student.
    """
    if distillation not in task.distillations:
        raise ValueError(
            "`distillation` must be logits_mse for regression, whose one output is no distribution, but got "
            "soft_cross_entropy; add --model.distillation logits_mse."
        )


def check_labels(task: Task) -> None:
    """Refuse data whose answers are texts where classes or numbers are learnt.

    Raises:
        ValueError: naming what learns texts.
    """
    if task.written:
        raise ValueError(
            "`data` must have classes or numbers as labels for this `class_path`, but its answers are texts; take "
            "--config configs/model/span.yaml for questions with contexts, or configs/model/seq2seq.yaml for what is "
            "written."
        )


def check_start(path: object, config: object) -> None:
    """Refuse a model that starts from both a pretrained one and a configuration, or from neither.

    Raises:
        ValueError: naming what came.
    """
    if (path is None) == (config is None):
        raise ValueError(
            "`path` (pretrained) or `config` (from scratch): give exactly one of them, "
            f"but got path={path!r}, config={config!r}."
        )
