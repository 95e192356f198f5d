"""Training of multi-exit encoders: exit policies, and distillation of every exit and layer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from dial.inference.staged import StagedModel
from dial.losses import (
    at_exits,
    certainty_loss,
    certainty_target,
    exit_distillation,
    hidden_mse,
    in_place_distillation,
    logits_mse,
    task_loss,
)
from dial.models.lengths import LengthDrop
from dial.models.pooling import Pooling
from dial.tiers.batching import Encoding
from dial.tiers.layers import all_layers, check_all_tokens, check_same_layers, tier_with_exits
from dial.tiers.multi_exit import MultiExitTier
from dial.tiers.tier import View
from lightning_modules.base import Batch
from lightning_modules.policies import ExitPolicy, JointSum
from lightning_modules.policies.policy import Parts
from lightning_modules.training import (
    StagedRate,
    TierModule,
    check_distillation,
    check_labels,
    check_range,
    start_choosing,
    stopped_early,
)


class MultiExit(TierModule):
    """One encoder with several exits, trained by a policy on labels and, if a teacher is given, on what it says.

    The loss of an exit is ``(1 - w) * task + w * distillation``; the policy makes one loss of those of all exits, to
    which ``hidden_weight`` times Eq. 5 of COST-EFF is added. A teacher with one exit teaches all exits (COST-EFF's
    teaching assistant is made so); one with several (the teaching assistant) teaches each exit by the exit of the same
    layer (Eq. 4), and for Eq. 5 each layer by the same layer. Where layers teach layers the teacher runs beside the
    student; else it reads the training text once, and its logits lie on disk.

    With ``certainty`` the model also learns to exit (BERxiT, Xin et al. 2021): a linear layer, shared by all exits,
    predicts from the hidden state whether the exit is right, or how near it comes for regression
    (``1 - tanh(|output - label|)``); the mean squared error is added to the exit's loss. That gives the score
    ``learned``, with which regression can exit, too. As in the paper it is learnt jointly: its gradient reaches the
    encoder, but not through the exit's answer, which is a constant target.

    Args:
        path: folder or hub id of a pretrained encoder, a fine-tuned classifier, or a multi-exit model.
        exits: layers, counted from 1, after which there is an exit; the last must be the depth. Default: every layer,
            or the exits that a multi-exit model has.
        pooler: give each exit a dense layer with tanh; COST-EFF does without. A multi-exit model keeps what it has.
        pooling: what exits read of their layer: the ``first`` token as in the papers; the ``last`` one, which alone
            sees the whole text in a decoder (GPT-2, Llama, Qwen2); or the ``mean`` over all tokens, which early exits
            need where the first token hardly differs between texts in early layers (MiniLM).
            Default: as the model has it, else the first token, or the last of a decoder.
        layers: cut the encoder to its first layers.
        max_length: tokens kept of each text or pair.
        policy: how the exits' losses train the encoder (JointSum, LayerWeighted, GradientEquilibrium, TwoStage).
        quality_of: which exit the best checkpoint and early stopping go by: ``last``, a layer with an exit, or ``mean``
            over all exits.
        teacher: tier (folder, or view with ``path``) to distil from.
        distillation: which distillation loss of the logits.
        distillation_weight: weight ``w`` between 0 and 1 of the distillation loss; 1 is COST-EFF's Eq. 4 alone.
        distillation_temperature: softens both distributions of ``soft_cross_entropy``.
        hidden_weight: weight of the distillation of hidden states (Eq. 5); 0 leaves it out.
        length_drop: train also with tokens dropped, a share of so many in each layer at most, see
            :class:`LengthAdaptive`: each exit then learns its own answer of all tokens. Default: not at all.
        certainty: learn to exit: ``joint`` as in BERxiT, or ``detached``, which leaves the encoder to the other losses.
            Default: not at all, but for a model that already does, which goes on jointly.
        training: see :class:`~lightning_modules.training.TierModule`; the learning rate rises and falls in each stage
            of the policy.

    Raises:
        ValueError: an argument is outside its range, exits and encoder do not fit, or student and teacher do not.
    """

    reads_targets = False  # of data whose answers are texts: label words are classes like others

    def __init__(
        self,
        path: str,
        exits: list[int] | None = None,
        pooler: bool = False,
        pooling: Pooling | None = None,
        layers: int | None = None,
        max_length: int = 128,
        policy: ExitPolicy | None = None,
        quality_of: Literal["last", "mean"] | int = "last",
        teacher: str | dict[str, Any] | None = None,
        distillation: Literal["soft_cross_entropy", "logits_mse"] = "soft_cross_entropy",
        distillation_weight: float = 1.0,
        distillation_temperature: float = 1.0,
        hidden_weight: float = 0.0,
        length_drop: float | None = None,
        certainty: Literal["joint", "detached"] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        check_labels(self.task)
        check_range("distillation_weight", distillation_weight, 0.0, 1.0)
        check_range("hidden_weight", hidden_weight, 0.0, float("inf"))
        if distillation_temperature <= 0:
            raise ValueError(f"`distillation_temperature` must be above 0, but got {distillation_temperature}.")
        if hidden_weight and teacher is None:
            raise ValueError(f"`hidden_weight` {hidden_weight:g} needs a `teacher`, but got none; name one, or use 0.")
        if teacher is not None and distillation_weight > 0:
            check_distillation(distillation, self.task)
        self.policy = policy or JointSum()
        self.distillation_weight, self.hidden_weight = distillation_weight, hidden_weight
        self._distillation = partial(exit_distillation, temperature=distillation_temperature)
        if distillation == "logits_mse":
            self._distillation = partial(at_exits, logits_mse)
        tier, self._trained = tier_with_exits(
            path, exits, pooler, layers, max_length, self.label_names, certainty is not None, pooling
        )
        if pooler and not tier.model.config.pooler:
            raise ValueError(
                f"`pooler` is for new exits, but those of {path} are there, without one; leave it out, or take an "
                "encoder."
            )
        self.length_drop: LengthDrop | None = None
        if length_drop is not None:
            self.length_drop = LengthDrop(tier.model.config.num_hidden_layers, length_drop)
            tier.drop_tokens(
                self.length_drop.shortest, remedy="leave `length_drop` out"
            )  # refused now, if it cannot be
            tier.drop_tokens(None)
        tier.model.certainty_detached = certainty == "detached"
        self.network = StagedModel([tier])
        self.quality_of = self._check_quality_of(quality_of)
        self._beside: list[Any] = []  # a teacher that runs beside the student; in a list, as the other one
        self._load_teacher(teacher)
        self._stage: int | None = None
        self._attached = False

    @property
    def tier(self) -> MultiExitTier:
        """The model in training, with its tokenizer."""
        return cast(MultiExitTier, self.network.tiers[0])

    def _check_quality_of(self, wanted: str | int) -> str | int:
        exits = self.tier.model.exits
        if wanted not in ("last", "mean", *exits):
            raise ValueError(f"`quality_of` must be last, mean or a layer with an exit {exits}, but got {wanted!r}.")
        return wanted

    def _load_teacher(self, teacher: str | dict[str, Any] | None) -> None:
        if teacher is not None and self.hidden_weight:
            check_all_tokens(View.parse(teacher, "teacher"), "teacher")
        super()._load_teacher(teacher)
        if self._teacher and (self.hidden_weight or len(self._teacher[0].exits) > 1):
            self._columns = check_same_layers(self.tier, self._teacher[0], "teacher")
            self._beside = [self._teacher.pop().eval().requires_grad_(False)]

    @property
    def teacher(self) -> Any:
        """The tier that teaches: once through all of the text, or beside the student."""
        return self._beside[0] if self._beside else super().teacher

    def on_fit_start(self) -> None:
        """Bring the teacher to work, and the policy to the model."""
        super().on_fit_start()
        for teacher in self._beside:
            teacher.to(self.device)
        if not self._attached:
            self.policy.attach(self.parts)
            self._attached = True
        self._stage = None

    @property
    def parts(self) -> Parts:
        """The model as policies see it."""
        model = self.tier.model
        return Parts.of(model.encoder, list(model.layers), list(model.heads), model.exits)

    def _starts(self, total: int) -> list[int]:
        """First step of each of the policy's stages but the first, and the end."""
        return [round(share * total) for share in accumulate(self.policy.stages())]

    @property
    def encoder_ends(self) -> int:
        """Step from which on the policy leaves the encoder as it is; the end of the fit where it never does."""
        return max(end for end, trains in zip(self._ends, self.policy.trains_encoder(), strict=True) if trains)

    def learning_rate(self, total: int) -> Callable[[int], float]:
        """Factor of the learning rate at each step; every stage of the policy has a course of its own."""
        self._ends = self._starts(total)
        return StagedRate(self._ends, self.warmup, self.schedule)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Enter the policy's stage of this step."""
        super().on_train_batch_start(batch, batch_idx)
        stage = min(bisect_right(self._ends, self.global_step), len(self._ends) - 1)
        if stage == self._stage:
            return
        self._stage = stage
        self.policy.enter(stage)
        if stage and self.global_step == self._ends[stage - 1]:
            start_choosing(self.trainer)  # what was best before all exits were trained must not win over what comes now
        if not self._under_ddp:  # it counts on the gradients that it saw at the start; there they are dropped
            frozen = {id(parameter) for parameter in self.policy.frozen()}
            for parameter in self.network.parameters():
                parameter.requires_grad_(id(parameter) not in frozen)

    @property
    def _under_ddp(self) -> bool:
        """Whether gradients are gathered over processes; the strategy ``ddp`` does so even with one."""
        distributed = torch.distributed
        return self.trainer.world_size > 1 or (distributed.is_available() and distributed.is_initialized())

    def check_complete(self) -> None:
        """Refuse to go on with exits that early stopping left untrained.

        Raises:
            ValueError: the policy did not come to its last stage.
        """
        if stopped_early(self.trainer) and self._stage is not None and self._stage < len(self._ends) - 1:
            raise ValueError(
                f"`early_stopping.patience` must let the policy come to its stage {len(self._ends)}, which trains the "
                f"other exits, but the fit was stopped in stage {self._stage + 1}; raise it."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        encoding = batch["encodings"][self.tier.encoding_key]
        output = self.tier.outputs(encoding, hidden_states=bool(self.hidden_weight))
        logits, states = output.logits, output.hidden_states
        assert logits is not None
        losses = self._weigh(logits, batch)
        if self._beside:
            with torch.no_grad():
                taught, of_teacher = all_layers(self._beside[0], encoding)
            taught = taught[:, self._columns]
        elif self._teacher_logits is not None:
            taught = self._teacher_of(batch, logits)
        if self._beside or self._teacher_logits is not None:
            losses = losses + self.distillation_weight * self._distillation(logits, taught)
        if output.certainty is not None:
            losses = losses + self._certainty(output.certainty, logits, batch)
        if self.length_drop is not None:
            losses = self._with_fewer_tokens(losses, logits, encoding)
        loss = self.policy.loss(losses)
        if states is not None:
            hidden = hidden_mse(states, of_teacher, encoding["attention_mask"])
            self.log("train/hidden", hidden, batch_size=len(logits))
            loss = loss + self.hidden_weight * hidden
        if self._under_ddp and self.policy.frozen():
            loss = loss + 0.0 * losses.sum()  # DDP waits for a gradient of every parameter
        return self.log_loss(loss, batch)

    def _with_fewer_tokens(self, losses: Tensor, whole: Tensor, encoding: Encoding) -> Tensor:
        """Mean losses ``(E,)`` of the model with all tokens, given, and of those that learn its answers with fewer."""
        taught = partial(in_place_distillation, task=self.task)
        several = [losses]
        for lengths in self.length_drop.of_step() if self.length_drop is not None else ():
            with self.tier.at_lengths(lengths):
                several.append(at_exits(taught, self.tier(encoding), whole))
        return torch.stack(several).mean(dim=0)

    def _certainty(self, certainty: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Losses ``(E,)`` of what learns to exit."""
        losses = certainty_loss(certainty, certainty_target(logits, batch["label"], self.task))
        self.log("train/certainty", losses.mean(), batch_size=len(logits))
        return losses

    def _weigh(self, logits: Tensor, batch: Batch) -> Tensor:
        """The task's share of the exits' losses, ``(E,)``."""
        taught = bool(self._beside) or self._teacher_logits is not None
        share = 1 - self.distillation_weight if taught else 1.0
        return (
            share * at_exits(partial(task_loss, task=self.task), logits, batch["label"])
            if share
            else logits.new_zeros(logits.shape[1])
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Weigh the gradients, and drop what is frozen: without one no optimiser touches a parameter, by no decay."""
        self.policy.balance()
        for parameter in self.policy.frozen():
            parameter.grad = None

    @property
    def exit_names(self) -> list[str]:
        """All exits."""
        return list(self.tier.exits)

    def choose(self, values: list[float]) -> float:
        """As ``quality_of`` says."""
        if self.quality_of == "mean":
            return float(np.mean(values))
        return values[-1] if self.quality_of == "last" else values[self.tier.model.exits.index(int(self.quality_of))]
