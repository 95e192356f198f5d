"""What a model that learns to exit is taught (BERxiT, Xin et al. 2021)."""

import torch
from torch import Tensor


def certainty_target(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each exit is to be trusted: 1 where it is right and 0 where it is wrong; for numbers between the two.

    For regression that is ``1 - tanh(|output - label|)``, which is 1 only for an exact answer.

    Args:
        logits: ``(B, E, C)``, taken as constant; regression has ``C = 1``.
        labels: ``(B,)``; integers are classes, floating-point values are regression targets.

    Returns:
        ``(B, E)`` in [0, 1], float32.

    Example:
        >>> certainty_target(torch.tensor([[[2.0, 1.0], [0.0, 1.0]]]), torch.tensor([0]))
        tensor([[1., 0.]])
        >>> certainty_target(torch.tensor([[[2.0], [3.0]]]), torch.tensor([3.0]))
        tensor([[0.2384, 1.0000]])
    """
    outputs = logits.detach().float()
    if labels.is_floating_point():
        return 1 - torch.tanh((outputs[..., 0] - labels[:, None].float()).abs())
    return (outputs.argmax(dim=-1) == labels[:, None]).float()


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
