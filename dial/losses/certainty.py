"""What a model that learns to exit is taught (BERxiT, Xin et al. 2021)."""

import torch
from torch import Tensor

from dial.stages.task import Task


def certainty_target(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """How far each exit is to be trusted: 1 where it is right and 0 where it is wrong; for numbers between the two.

    Args:
        logits: ``(B, E, C)``, taken as constant.
        labels: ``(B,)``.
        task: says how near an answer comes to its label.

    Returns:
        ``(B, E)`` in [0, 1], float32.

    Example:
        >>> from dial.stages.task import task_of
        >>> certainty_target(torch.tensor([[[2.0, 1.0], [0.0, 1.0]]]), torch.tensor([0]), task_of(["no", "yes"]))
        tensor([[1., 0.]])
        >>> certainty_target(torch.tensor([[[2.0], [3.0]]]), torch.tensor([3.0]), task_of([]))
        tensor([[0.2384, 1.0000]])
    """
    target: Tensor = task.closeness(logits.detach().float(), labels[:, None])
    return target


def certainty_loss(certainty: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the certainty at each exit, ``(E,)``.

    Args:
        certainty: ``(B, E)``, before the sigmoid; receives the gradient.
        target: ``(B, E)`` from :func:`certainty_target`.

    Example:
        >>> certainty_loss(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]))
        tensor([0.2500])
    """
    return (torch.sigmoid(certainty) - target).square().mean(dim=0)
