"""Losses against labels: cross-entropy of classes, squared error of numbers."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from dial.stages.task import Task


def task_loss(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """The task's loss, averaged over the batch, in float32 at least: bf16 logits would round it to three digits.

    Args:
        logits: ``(B, C)``; numbers have ``C = 1``.
        labels: ``(B,)``; integers are classes in ``[0, C)``, floating-point values are numbers.
        task: says which loss.

    Raises:
        ValueError: labels and logits do not fit the loss.

    Example:
        >>> import torch
        >>> from dial.stages.task import task_of
        >>> task_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]), task_of([]))
        tensor(2.)
    """
    return LOSSES[task.loss](logits if logits.dtype.itemsize >= 4 else logits.float(), labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of classes ``(B,)``.

    Raises:
        ValueError: labels are numbers, or there is one output.
    """
    if labels.is_floating_point() or logits.shape[-1] < 2:
        raise _unfit("class labels need at least 2 outputs", logits, labels)
    return F.cross_entropy(logits, labels)


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of numbers ``(B,)``.

    Raises:
        ValueError: labels are classes, or there are several outputs.
    """
    if not labels.is_floating_point() or logits.shape[-1] != 1:
        raise _unfit("real-valued labels need 1 output", logits, labels)
    return F.mse_loss(logits[:, 0], labels.to(logits.dtype))


def _unfit(need: str, logits: Tensor, labels: Tensor) -> ValueError:
    kind = "numbers" if labels.is_floating_point() else "classes"
    return ValueError(
        f"`logits`: {need} per row, but got shape {tuple(logits.shape)} for {kind}; check the task's label names."
    )


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
"""By the names that tasks have for them."""
