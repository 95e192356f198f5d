"""What heads over the vocabulary learn, against loops over rows, positions and pieces."""

import math

import pytest
import torch
from torch import Tensor

from dial.losses import bag_loss, position_loss

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
TARGETS = torch.tensor([[4, 1, -100], [3, 3, 1], [2, -100, -100]])
PADDING = 0


def inputs() -> Tensor:
    return torch.randn(int(MASK.sum()), 6, generator=torch.Generator().manual_seed(3), requires_grad=True)


def cross_entropy(logits: list[float], piece: int) -> float:
    return math.log(sum(math.exp(z) for z in logits)) - logits[piece]


def test_position_m_learns_piece_m_cut_or_padded() -> None:
    logits, place = inputs(), 0
    losses = position_loss(logits, MASK, TARGETS, PADDING)
    for row in range(3):
        length = int(MASK[row].sum())
        pieces = [piece for piece in TARGETS[row].tolist() if piece != -100] + [PADDING] * length
        each = [cross_entropy(logits[place + m].tolist(), pieces[m]) for m in range(length)]
        place += length
        assert losses[row].item() == pytest.approx(sum(each) / length, rel=1e-5)
    losses.mean().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_each_position_learns_the_bag_of_pieces_with_their_repeats() -> None:
    logits, place = inputs(), 0
    losses = bag_loss(logits, MASK, TARGETS)
    for row in range(3):
        length = int(MASK[row].sum())
        pieces = [piece for piece in TARGETS[row].tolist() if piece != -100]
        each = [
            sum(cross_entropy(logits[place + m].tolist(), piece) for piece in pieces) / len(pieces)
            for m in range(length)
        ]
        place += length
        assert losses[row].item() == pytest.approx(sum(each) / length, rel=1e-5)
    losses.mean().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_a_source_longer_or_shorter_than_any_target() -> None:
    logits = torch.randn(2, 6)
    long = position_loss(logits, torch.tensor([[1, 1]]), torch.tensor([[4, 2, 5, 1]]), PADDING)
    expected = (cross_entropy(logits[0].tolist(), 4) + cross_entropy(logits[1].tolist(), 2)) / 2
    assert long.tolist() == pytest.approx([expected], rel=1e-5)
