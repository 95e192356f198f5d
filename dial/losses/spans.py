"""Losses of where an answer starts and ends, among the tokens of a window."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from datamodules.windows import NO_ANSWER
from dial.losses.soft_cross_entropy import soft_cross_entropy

Places = tuple[Tensor, Tensor]


def span_cross_entropy(logits: Tensor, starts: Tensor, ends: Tensor, reduction: str = "mean") -> Tensor:
    """Mean of the cross-entropies of start and end (Devlin et al. 2019, section 4.2), a scalar.

    Args:
        logits: ``(W, T, 2)``, minus infinity where no answer can be.
        starts: ``(W,)`` token at which each window's answer starts.
        ends: ``(W,)`` its last token.
        reduction: ``mean`` over the windows, or ``none`` for the loss of each, ``(W,)``.
    """
    sides = zip(logits.unbind(dim=-1), (starts, ends), strict=True)
    start, end = (cross_entropy(of_side, place, reduction=reduction) for of_side, place in sides)
    return (start + end) / 2


def span_distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Soft cross-entropy of start and end against a teacher's, times T² (Hinton et al. 2015), a scalar.

    Tokens of which the teacher says nothing, as its windows begin elsewhere or its pieces are others, are left out of
    both distributions; windows in which it knows none, altogether.

    Args:
        logits: ``(W, T, 2)``, minus infinity where no answer can be.
        teacher: ``(W, T, 2)`` of the same tokens, minus infinity where it says nothing.
        temperature: softens both.
    """
    known = torch.isfinite(teacher) & torch.isfinite(logits)
    both = known.any(dim=1).all(dim=1)
    if not both.any():
        return logits[torch.isfinite(logits)].sum() * 0.0
    lowest = torch.finfo(logits.dtype).min / 2  # a share of 0, and no infinity that a product with it makes no number
    mine, theirs = (each.masked_fill(~known, lowest)[both].transpose(1, 2) for each in (logits, teacher))
    return soft_cross_entropy(mine.flatten(0, 1), theirs.flatten(0, 1), temperature)


def carried_over(logits: Tensor, places: Places, row: Tensor, to_places: Places, to_row: Tensor) -> Tensor:
    """A teacher's logits at a student's tokens, ``(V, S, 2)``: starts by where a token begins, ends by where it ends.

    Teacher and student may have other pieces, special tokens and windows. Where several of the teacher's tokens are at
    a place, in one window or in several, the largest logit counts; where none is, minus infinity stands. The first
    token, which says that a window does not hold the answer, gets that of the teacher's window that shares most
    characters with the student's.

    Args:
        logits: of the teacher, ``(W, T, 2)``.
        places: ``(W, T)`` first character of each of its tokens in the context and the one behind it, -1 for others.
        row: ``(W,)`` of its windows.
        to_places: ``(V, S)`` of the student's.
        to_row: ``(V,)`` of the student's.
    """
    sides = zip(logits.unbind(dim=2), places, to_places, strict=True)
    found = torch.stack([_at_places(of_side, own, row, to, to_row) for of_side, own, to in sides], dim=2)
    found[:, NO_ANSWER] = _no_answer(logits, places[0], row, to_places[0], to_row)
    return found


def _at_places(logits: Tensor, places: Tensor, row: Tensor, to_places: Tensor, to_row: Tensor) -> Tensor:
    """The largest of some logits ``(W, T)`` at each of the wanted places, ``(V, S)``; minus infinity where none is.

    Args:
        logits: of starts or of ends.
        places: ``(W, T)`` character of each, -1 for those outside the context.
        row: ``(W,)``.
        to_places: ``(V, S)`` that are wanted, likewise.
        to_row: ``(V,)``.
    """
    width = int(torch.maximum(places.max(), to_places.max())) + 2  # the last column takes what is not of the context
    rows = int(torch.maximum(row.max(), to_row.max())) + 1
    index = torch.where(places >= 0, places, width - 1).long() + row.unsqueeze(1) * width
    table = logits.new_full((rows * width,), -torch.inf)
    table = table.scatter_reduce(0, index.flatten(), logits.flatten(), reduce="amax")
    table.view(rows, width)[:, -1] = -torch.inf
    return table[torch.where(to_places >= 0, to_places, width - 1).long() + to_row.unsqueeze(1) * width]


def _no_answer(logits: Tensor, starts: Tensor, row: Tensor, to_starts: Tensor, to_row: Tensor) -> Tensor:
    """The first token's logits of the teacher's window that shares most with each of the student's, ``(V, 2)``."""
    last, to_last = starts.amax(dim=1), to_starts.amax(dim=1)
    first, to_first = (torch.where(each >= 0, each, each.max()).amin(dim=1) for each in (starts, to_starts))
    shared = torch.minimum(to_last.unsqueeze(1), last) - torch.maximum(to_first.unsqueeze(1), first) + 1
    shared = shared.masked_fill(to_row.unsqueeze(1) != row, 0)
    most, window = shared.max(dim=1)
    return logits[window, NO_ANSWER].masked_fill((most < 1).unsqueeze(1), -torch.inf)
