"""Losses inside transformers against plain loops over rows, heads and tokens."""

import math

import pytest
import torch

from dial.losses import attention_mse, hidden_cosine

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1]])


def test_attention_against_loops() -> None:
    student, teacher = (torch.randn(3, 2, 2, 4, 4, requires_grad=True) for _ in range(2))
    expected = 0.0
    for own, other in zip(student, teacher, strict=True):
        squares = [
            (own[row, head, i, j] - other[row, head, i, j]).item() ** 2
            for row in range(2)
            for head in range(2)
            for i in range(4)
            for j in range(4)
            if MASK[row, i] and MASK[row, j]
        ]
        expected += sum(squares) / len(squares)
    loss = attention_mse(list(student), list(teacher), MASK)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert student.grad is not None and teacher.grad is None
    pairs = MASK[:, None, :, None] * MASK[:, None, None, :]
    assert (student.grad * (1 - pairs)).abs().max() == 0 and (student.grad * pairs).abs().min(dim=0).values.sum() > 0


def test_attention_of_large_batches_is_exact() -> None:
    student, teacher = (torch.randn(8, 12, 256, 256) for _ in range(2))
    expected = (student - teacher).double().square().mean()
    loss = attention_mse([student], [teacher], torch.ones(8, 256))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_may_hold_anything() -> None:
    own, other = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4)
    before = attention_mse([own], [other], MASK)
    own[0, :, 3], other[1, :, :, 1] = float("-inf"), 1e4
    assert attention_mse([own], [other], MASK) == before


def test_cosine_against_loops() -> None:
    student, teacher = (torch.randn(2, 4, 5, requires_grad=True) for _ in range(2))
    distances = []
    for row in range(2):
        for token in range(4):
            if MASK[row, token]:
                own, other = student[row, token].tolist(), teacher[row, token].tolist()
                dot = sum(a * b for a, b in zip(own, other, strict=True))
                distances.append(1 - dot / math.sqrt(sum(a * a for a in own) * sum(b * b for b in other)))
    loss = hidden_cosine(student, teacher, MASK)
    assert loss.item() == pytest.approx(sum(distances) / len(distances), rel=1e-5)
    loss.backward()
    assert student.grad is not None and teacher.grad is None and student.grad[0, 3].abs().sum() == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    scores, states = torch.randn(2, 2, 4, 4), torch.randn(2, 4, 5)
    with pytest.raises(ValueError, match="same layers, but got 1 and 2"):
        attention_mse([scores], [scores, scores], MASK)
    with pytest.raises(ValueError, match=r"one shape \(B, A, T, T\)"):
        attention_mse([scores], [scores[:, :1]], MASK)
    with pytest.raises(ValueError, match=r"one shape \(B, T, H\)"):
        hidden_cosine(states, states[..., :3], MASK)
