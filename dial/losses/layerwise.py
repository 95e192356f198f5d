"""Distillation of every exit and every layer (COST-EFF, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from dial.losses.soft_cross_entropy import soft_cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]


def at_exits(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    """One loss for each exit, ``(E,)``.

    Args:
        loss: maps logits ``(B, C)`` and a target to a scalar.
        logits: ``(B, E, C)``.
        target: what all exits share: labels ``(B,)`` or logits ``(B, C)``; or logits ``(B, E, C)``, one for each exit.

    Raises:
        ValueError: ``target`` has another number of exits.

    Example:
        >>> at_exits(lambda own, label: (own[:, 0] - label).mean(), torch.tensor([[[3.0], [5.0]]]), torch.tensor([1.0]))
        tensor([2., 4.])
    """
    exits = logits.shape[1]
    targets = target.unbind(1) if target.ndim == 3 else (target,) * exits
    if len(targets) != exits:
        raise ValueError(
            f"`target` must have one entry for each of the {exits} exits, or one for all, "
            f"but got {tuple(target.shape)}."
        )
    return torch.stack([loss(own, wanted) for own, wanted in zip(logits.unbind(1), targets, strict=True)])


def exit_distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of every exit, ``(E,)``; their sum is COST-EFF's Eq. 4 at its temperature, 1.

    Args:
        student: logits ``(B, E, C)``, receive the gradient.
        teacher: logits ``(B, E, C)`` of the same exits, or ``(B, C)`` of a model with one exit, which then teaches all.
        temperature: positive; each term is multiplied by its square (see :func:`soft_cross_entropy`), which Eq. 4 is
            not, so that the balance with Eq. 5 stays.

    Raises:
        ValueError: shapes or temperature do not fit.
    """
    return at_exits(lambda own, other: soft_cross_entropy(own, other, temperature), student, teacher)


def hidden_mse(student: Sequence[Tensor], teacher: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """Sum over layers of the mean squared difference of hidden states (COST-EFF, Eq. 5), over real tokens only.

    Eq. 5 counts to L + 1; the outputs of the embeddings and of L layers are the L + 1 terms ``H_0`` to ``H_L``.

    Args:
        student: ``H_0`` to ``H_L``, each ``(B, T, H)``; receive the gradient.
        teacher: likewise, taken as constant.
        attention_mask: ``(B, T)``, 0 at padding, whose hidden states mean nothing.

    Raises:
        ValueError: the number of layers or a shape differs.

    Example:
        >>> own, other = torch.zeros(1, 2, 1), torch.tensor([[[3.0], [100.0]]])
        >>> hidden_mse([own, own], [other, own], torch.tensor([[1, 0]]))
        tensor(9.)
    """
    if len(student) != len(teacher) or not student:
        raise ValueError(
            "`student` and `teacher` must have the same layers, "
            f"but got {len(student)} and {len(teacher)} hidden states."
        )
    mask = attention_mask.bool()
    total = student[0].new_zeros((), dtype=torch.float32)
    for layer, (own, other) in enumerate(zip(student, teacher, strict=True)):
        if own.shape != other.shape or own.shape[:2] != mask.shape:
            raise ValueError(
                "`student` and `teacher` must have hidden states of one shape (B, T, H) with attention_mask (B, T), "
                f"but layer {layer} has {tuple(own.shape)} and {tuple(other.shape)} with {tuple(mask.shape)}."
            )
        total = total + mse_loss(own[mask].float(), other.detach()[mask].float())
    return total
