"""Training losses: pure functions from tensors to one scalar."""

from lightning_modules.losses.logits_mse import logits_mse
from lightning_modules.losses.soft_cross_entropy import soft_cross_entropy
from lightning_modules.losses.task import task_loss

__all__ = ["logits_mse", "soft_cross_entropy", "task_loss"]
