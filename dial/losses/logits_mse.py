"""Distillation by regression on logits."""

import torch.nn.functional as F
from torch import Tensor


def logits_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between the logits of student and teacher, averaged over rows and classes.

    Tang et al. 2019 (arXiv:1903.12136), Eq. 2, averaged over classes so that its weight against the task loss does not
    grow with their number. It also distils regressors: the teacher's output is then the target.

    Args:
        student: ``(B, C)``, receives the gradient.
        teacher: ``(B, C)``, taken as constant.

    Raises:
        ValueError: the shapes differ (they would broadcast).

    Example:
        >>> import torch
        >>> logits_mse(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
        tensor(5.)
    """
    if student.shape != teacher.shape:
        raise ValueError(
            "`student` and `teacher` must be logits of the same shape, "
            f"but got {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    return F.mse_loss(student.float(), teacher.detach().float())
