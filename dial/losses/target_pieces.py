"""What a head over the vocabulary learns of a target text: two readings of E-LANG's "m-th word" (section 3.2.1).

The paper says neither how positions of the source meet words of the target, nor what a position beyond it learns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.loading import IGNORED


def position_loss(logits: Tensor, mask: Tensor, targets: Tensor, padding: int) -> Tensor:
    """Position m learns piece m; a target longer than its source is cut, one that is shorter is padded.

    Args:
        logits: ``(P, V)`` of the unpadded positions of all rows, row after row.
        mask: ``(B, T)``, with P ones.
        targets: ``(B, M)`` pieces, padded with :data:`IGNORED`.
        padding: piece that the positions behind a target learn.

    Returns:
        ``(B,)``, each the mean over the positions of a row.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
        >>> mask = torch.tensor([[1, 1], [1, 0]])
        >>> position_loss(logits, mask, torch.tensor([[0, -100], [0, 1]]), padding=2).max().item() < 0.001
        True
    """
    width = mask.shape[1]
    placed = F.pad(targets[:, :width], (0, max(0, width - targets.shape[1])), value=IGNORED)
    placed = torch.where(placed == IGNORED, padding, placed)
    there = mask.bool()
    return _row_means(F.cross_entropy(logits, placed[there], reduction="none"), there)


def bag_loss(logits: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Each position learns all pieces of the target: the cross-entropy against their shares in it.

    Args:
        logits: ``(P, V)`` of the unpadded positions of all rows, row after row.
        mask: ``(B, T)``, with P ones.
        targets: ``(B, M)`` pieces, padded with :data:`IGNORED`.

    Returns:
        ``(B,)``, each the mean over the positions of a row.

    Example:
        >>> even = bag_loss(torch.tensor([[5.0, 5.0, -90.0]]), torch.tensor([[1]]), torch.tensor([[0, 1]]))
        >>> round(even.item(), 4)  # as well as can be: log 2
        0.6931
    """
    there = mask.bool()
    pieces = targets[there.nonzero()[:, 0]]  # (P, M)
    real = pieces != IGNORED
    named = logits.gather(1, pieces.clamp(min=0)).masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return _row_means(logits.logsumexp(dim=1) - named, there)


def _row_means(values: Tensor, there: Tensor) -> Tensor:
    """Means ``(B,)`` of values ``(P,)`` over the positions of each row."""
    rows = there.nonzero()[:, 0]
    return values.new_zeros(len(there)).index_add(0, rows, values) / there.sum(dim=1).clamp(min=1)
