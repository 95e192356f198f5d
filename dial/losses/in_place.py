"""In-place distillation: a part of a model learns what the whole one says (Yu and Huang 2019; Kim and Cho 2021)."""

from torch import Tensor

from dial.losses.logits_mse import logits_mse
from dial.losses.soft_cross_entropy import soft_cross_entropy
from dial.stages.task import Task

LOSSES = {"soft_cross_entropy": soft_cross_entropy, "logits_mse": logits_mse}


def in_place_distillation(part: Tensor, whole: Tensor, task: Task) -> Tensor:
    """Cross-entropy of classes, or squared error of numbers, against what the whole model says, a scalar.

    Args:
        part: logits ``(B, C)``, receives the gradient.
        whole: logits ``(B, C)`` of the same weights, taken as constant.
        task: classification or regression.

    Example:
        >>> import torch
        >>> from dial.stages.task import task_of
        >>> in_place_distillation(torch.tensor([[1.0]]), torch.tensor([[3.0]]), task_of([]))
        tensor(4.)
    """
    return LOSSES[task.distillations[0]](part, whole.detach())
