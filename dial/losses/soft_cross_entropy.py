"""Distillation from softened class distributions."""

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy between the teacher's and the student's softened distributions, times ``temperature**2``.

    The sum over classes of ``-p_teacher log p_student`` is averaged over rows (Hinton, Vinyals and Dean, 2015,
    section 2). Gradients of softened distributions shrink by ``1 / temperature**2``; the factor keeps their balance
    with the task loss when the temperature changes. The gradient is that of the KL divergence.

    Args:
        student: logits ``(B, C)``, receives the gradient.
        teacher: logits ``(B, C)``, taken as constant.
        temperature: positive; 1 leaves the distributions as they are.

    Raises:
        ValueError: ``temperature`` is not positive, the shapes differ, or there is one output (regression).

    Example:
        >>> import torch
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), temperature=2.0)  # 4 log 2
        tensor(2.7726)
    """
    if temperature <= 0:
        raise ValueError(f"`temperature` must be above 0, but got {temperature}; 1 does not soften.")
    if student.shape != teacher.shape or student.shape[-1] < 2:
        raise ValueError(
            "`student` and `teacher` must be logits of the same shape (B, C) with C >= 2, "
            f"but got {tuple(student.shape)} and {tuple(teacher.shape)}; for regression use logits_mse."
        )
    probabilities = F.softmax(teacher.detach().float() / temperature, dim=-1)
    log_probabilities = F.log_softmax(student.float() / temperature, dim=-1)
    return -(probabilities * log_probabilities).sum(dim=-1).mean() * temperature**2
