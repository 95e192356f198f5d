"""The loss against the labels."""

import torch.nn.functional as F
from torch import Tensor


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of class labels, or mean squared error of real-valued ones, averaged over the batch.

    Args:
        logits: ``(B, C)``; regression has ``C = 1``.
        labels: ``(B,)``; integers are classes in ``[0, C)``, floating-point values are regression targets.

    Raises:
        ValueError: real-valued labels with ``C > 1``, or class labels with ``C = 1``.

    Example:
        >>> import torch
        >>> task_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
        tensor(2.)
    """
    regression = labels.is_floating_point()
    if regression != (logits.shape[-1] == 1):
        kind = "real-valued labels need 1 output" if regression else "class labels need at least 2 outputs"
        raise ValueError(
            f"`logits`: {kind} per row, but got shape {tuple(logits.shape)}; check the task's label names."
        )
    # In float32 at least: bf16 logits would round the loss to three digits.
    outputs = logits if logits.dtype.itemsize >= 4 else logits.float()
    if regression:
        return F.mse_loss(outputs[:, 0], labels.to(outputs.dtype))
    return F.cross_entropy(outputs, labels)
