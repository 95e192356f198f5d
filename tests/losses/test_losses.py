"""Losses against loops over rows and classes."""

import math

import pytest
import torch

from dial.losses import logits_mse, soft_cross_entropy, task_loss
from dial.stages.task import task_of


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("classes", [2, 5])
def test_task_loss_is_the_mean_negative_log_probability(classes: int) -> None:
    logits, labels = torch.randn(7, classes), torch.randint(classes, (7,))
    expected = -sum(
        math.log(softmax(row, 1)[label]) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert task_loss(logits, labels, task_of("abcde"[:classes])).item() == pytest.approx(expected / 7, rel=1e-5)


def test_task_loss_of_regression_is_the_mean_square() -> None:
    outputs, targets = torch.randn(7, 1), torch.randn(7)
    expected = sum((o[0] - t) ** 2 for o, t in zip(outputs.tolist(), targets.tolist(), strict=True)) / 7
    assert task_loss(outputs, targets, task_of([])).item() == pytest.approx(expected, rel=1e-5)
    # labels read from a table are float64; bf16-true models give bf16
    assert task_loss(outputs, targets.double(), task_of([])).item() == pytest.approx(expected, rel=1e-5)
    assert task_loss(outputs.bfloat16(), targets, task_of([])).dtype == torch.float32


@pytest.mark.parametrize(("width", "labels"), [(2, torch.zeros(3)), (1, torch.zeros(3, dtype=torch.long))])
def test_task_loss_refuses_labels_of_the_other_kind(width: int, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"`logits`: .* outputs? per row"):
        task_loss(torch.zeros(3, width), labels, task_of("ab"[: width * (width - 1)]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_soft_cross_entropy(temperature: float, classes: int) -> None:
    student, teacher = torch.randn(6, classes), torch.randn(6, classes)
    expected = 0.0
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        for q, p in zip(softmax(own, temperature), softmax(other, temperature), strict=True):
            expected -= p * math.log(q)
    expected *= temperature**2 / 6
    assert soft_cross_entropy(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_soft_cross_entropy_keeps_its_gradient_when_the_temperature_changes() -> None:
    # Hinton et al.: at high temperature the gradient is (z - v) / C for centred logits, whatever the temperature.
    student, teacher = torch.randn(1, 4), torch.randn(1, 4)
    student, teacher = student - student.mean(), teacher - teacher.mean()
    for temperature in (100.0, 1000.0):
        moved = student.clone().requires_grad_()
        soft_cross_entropy(moved, teacher, temperature).backward()
        torch.testing.assert_close(moved.grad, (student - teacher) / 4, atol=2e-2, rtol=2e-2)


def test_soft_cross_entropy_sends_no_gradient_to_the_teacher_and_is_finite_far_out() -> None:
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = soft_cross_entropy(student, teacher, 2.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all() and teacher.grad is None


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_soft_cross_entropy_refuses_temperatures(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"`temperature` must be above 0, but got {temperature}"):
        soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), temperature)


def test_soft_cross_entropy_refuses_regression_and_unequal_shapes() -> None:
    # one output: its softmax is 1 whatever the student says, so nothing would be learnt
    with pytest.raises(ValueError, match="for regression use logits_mse"):
        soft_cross_entropy(torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="same shape"):
        soft_cross_entropy(torch.zeros(4, 2), torch.zeros(4, 3))


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_logits_mse(classes: int) -> None:
    student, teacher = torch.randn(6, classes, requires_grad=True), torch.randn(6, classes, requires_grad=True)
    total = 0.0
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        for a, b in zip(own, other, strict=True):
            total += (a - b) ** 2
    loss = logits_mse(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(total / (6 * classes), rel=1e-5)
    assert teacher.grad is None


def test_logits_mse_does_not_broadcast() -> None:
    with pytest.raises(ValueError, match="same shape"):
        logits_mse(torch.zeros(4, 1), torch.zeros(4))
