"""Targets and loss of learning to exit against loops."""

import math

import pytest
import torch

from dial.losses import certainty_loss, certainty_target
from dial.stages.task import task_of


def test_classes_are_right_or_wrong() -> None:
    logits, labels = torch.randn(6, 3, 4), torch.randint(4, (6,))
    target = certainty_target(logits, labels, task_of("abcd"))
    for row in range(6):
        for stage in range(3):
            values = logits[row, stage].tolist()
            assert target[row, stage].item() == float(values.index(max(values)) == labels[row].item())


def test_numbers_are_trusted_by_their_distance() -> None:
    logits, labels = 3 * torch.randn(5, 2, 1), torch.rand(5) * 5
    target = certainty_target(logits, labels, task_of([]))
    for row in range(5):
        for stage in range(2):
            expected = 1 - math.tanh(abs(logits[row, stage, 0].item() - labels[row].item()))
            assert target[row, stage].item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_the_squared_error_at_each_exit_and_leaves_the_answers_alone() -> None:
    logits = torch.randn(4, 3, 2, requires_grad=True)
    certainty, labels = torch.randn(4, 3, requires_grad=True), torch.randint(2, (4,))
    target = certainty_target(logits, labels, task_of("ab"))
    losses = certainty_loss(certainty, target)
    for stage in range(3):
        errors = [(1 / (1 + math.exp(-certainty[r, stage].item())) - target[r, stage].item()) ** 2 for r in range(4)]
        assert losses[stage].item() == pytest.approx(sum(errors) / 4, rel=1e-5)
    losses.sum().backward()
    assert logits.grad is None and certainty.grad.abs().sum() > 0
