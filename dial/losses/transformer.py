"""Distillation of what happens inside a transformer (TinyBERT, DistilBERT); hidden states: :func:`hidden_mse`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def attention_mse(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Sum over layers of the mean squared difference of attention scores before their softmax (TinyBERT, Eq. 7).

    The mean goes over heads and over pairs of tokens that both count.

    Args:
        student: scores ``(B, A, T, T)`` of each layer, query by key; receive the gradient.
        teacher: likewise, taken as constant.
        mask: ``(B, T)``, 0 where a token does not count, as padding.

    Raises:
        ValueError: the number of layers or a shape differs.

    Example:
        >>> own, other = torch.zeros(1, 1, 2, 2), torch.tensor([[[[2.0, 9.0], [9.0, 9.0]]]])
        >>> attention_mse([own], [other], torch.tensor([[1, 0]]))
        tensor(4.)
    """
    if len(student) != len(teacher) or not student:
        raise ValueError(
            f"`student` and `teacher` must have the same layers, but got {len(student)} and {len(teacher)}."
        )
    length = mask.shape[1]
    pairs = (mask[:, None, :, None] * mask[:, None, None, :]).bool()
    total = student[0].new_zeros((), dtype=torch.float32)
    for own, other in zip(student, teacher, strict=True):
        if own.shape != other.shape or own.shape[::2] != (len(mask), length) or own.shape[3] != length:
            raise ValueError(
                "`student` and `teacher` must have attention scores of one shape (B, A, T, T) with mask (B, T), "
                f"but got {tuple(own.shape)} and {tuple(other.shape)} with {tuple(mask.shape)}."
            )
        difference = own.float() - other.detach().float()
        with torch.no_grad():  # where the difference is 0, so is the gradient of its square
            difference.masked_fill_(~pairs, 0.0)  # padding may hold -inf
        # A norm's gradient takes one pass over the scores, that of a sum of squares four; over many numbers it is less
        # exact, as torch adds them one by one in float32.
        norms = torch.linalg.vector_norm(difference, dim=-1)
        total = total + norms.square().sum() / (pairs.sum() * own.shape[1])
    return total


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens of one minus the cosine of their hidden states (DistilBERT, section 2).

    Args:
        student: hidden states ``(B, T, H)``; receive the gradient.
        teacher: likewise, taken as constant.
        mask: ``(B, T)``, 0 where a token does not count, as padding.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> own, other = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])
        >>> hidden_cosine(own, other, torch.tensor([[1, 1]]))
        tensor(0.5000)
    """
    if student.shape != teacher.shape or student.shape[:2] != mask.shape:
        raise ValueError(
            "`student` and `teacher` must have hidden states of one shape (B, T, H) with mask (B, T), "
            f"but got {tuple(student.shape)} and {tuple(teacher.shape)} with {tuple(mask.shape)}."
        )
    real = mask.bool()
    return (1 - cosine_similarity(student[real].float(), teacher.detach()[real].float(), dim=-1)).mean()
