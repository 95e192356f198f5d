"""Training losses: pure functions from tensors to one scalar, or to one for each exit."""

from lightning_modules.losses.certainty import certainty_loss, certainty_target
from lightning_modules.losses.layerwise import at_exits, exit_distillation, hidden_mse
from lightning_modules.losses.logits_mse import logits_mse
from lightning_modules.losses.soft_cross_entropy import soft_cross_entropy
from lightning_modules.losses.task import task_loss

__all__ = [
    "at_exits",
    "certainty_loss",
    "certainty_target",
    "exit_distillation",
    "hidden_mse",
    "logits_mse",
    "soft_cross_entropy",
    "task_loss",
]
