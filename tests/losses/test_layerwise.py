"""Losses of layers and exits against loops over rows, tokens and classes."""

import math
from functools import partial

import pytest
import torch

from dial.losses import at_exits, exit_distillation, hidden_mse, task_loss
from dial.stages.task import task_of


def naive_hidden(student, teacher, mask) -> float:
    """Eq. 5 number by number."""
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        squares = [
            (own[b, t, h].item() - other[b, t, h].item()) ** 2
            for b in range(own.shape[0])
            for t in range(own.shape[1])
            if mask[b, t]
            for h in range(own.shape[2])
        ]
        total += sum(squares) / len(squares)
    return total


@pytest.fixture
def states():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    student = [torch.randn(3, 4, 5, requires_grad=True) for _ in range(4)]
    teacher = [torch.randn(3, 4, 5, requires_grad=True) for _ in range(4)]
    return student, teacher, mask


def test_hidden_mse_is_eq_5_over_real_tokens(states) -> None:
    student, teacher, mask = states
    loss = hidden_mse(student, teacher, mask)
    assert loss.item() == pytest.approx(naive_hidden(student, teacher, mask), rel=1e-5)
    loss.backward()
    for own, other in zip(student, teacher, strict=True):
        assert other.grad is None
        assert own.grad[~mask.bool()].abs().max() == 0 and own.grad[mask.bool()].abs().min() > 0


def test_hidden_mse_does_not_see_padding(states) -> None:
    student, teacher, mask = states
    before = hidden_mse(student, teacher, mask)
    for state in teacher:
        state.data[~mask.bool()] = float("inf")
    assert torch.equal(hidden_mse(student, teacher, mask), before)


def test_hidden_mse_keeps_bf16_states_in_full_precision(states) -> None:
    student, teacher, mask = states
    loss = hidden_mse([s.bfloat16() for s in student], [t.bfloat16() for t in teacher], mask)
    assert loss.dtype == torch.float32
    expected = naive_hidden([s.bfloat16() for s in student], [t.bfloat16() for t in teacher], mask)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_hidden_mse_names_what_differs(states) -> None:
    student, teacher, mask = states
    with pytest.raises(ValueError, match="same layers, but got 4 and 3 hidden states"):
        hidden_mse(student, teacher[:3], mask)
    with pytest.raises(ValueError, match=r"layer 1 has \(3, 4, 5\) and \(3, 4, 1\)"):
        hidden_mse(student, [teacher[0], teacher[1][..., :1], *teacher[2:]], mask)


def naive_soft(own: list[float], other: list[float], temperature: float) -> float:
    def log_softmax(row):
        norm = math.log(sum(math.exp(z / temperature) for z in row))
        return [z / temperature - norm for z in row]

    return -sum(math.exp(p) * q for p, q in zip(log_softmax(other), log_softmax(own), strict=True)) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("several", [True, False], ids=["layer by layer", "one teacher"])
def test_exit_distillation_is_eq_4(several: bool, temperature: float) -> None:
    student = torch.randn(6, 3, 4)
    teacher = torch.randn(6, 3, 4) if several else torch.randn(6, 4)
    losses = exit_distillation(student, teacher, temperature)
    assert losses.shape == (3,)
    for exit_index in range(3):
        rows = [
            naive_soft(
                student[b, exit_index].tolist(),
                (teacher[b, exit_index] if several else teacher[b]).tolist(),
                temperature,
            )
            for b in range(6)
        ]
        assert losses[exit_index].item() == pytest.approx(sum(rows) / 6, rel=1e-4)


def test_exit_distillation_refuses_another_number_of_exits() -> None:
    with pytest.raises(ValueError, match="each of the 3 exits, or one for all"):
        exit_distillation(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4))


def test_labels_are_shared_by_all_exits() -> None:
    logits, labels = torch.randn(5, 3, 2), torch.randint(2, (5,))
    losses = at_exits(partial(task_loss, task=task_of(["no", "yes"])), logits, labels)
    for exit_index in range(3):
        expected = -sum(
            math.log(math.exp(row[label]) / sum(map(math.exp, row)))
            for row, label in zip(logits[:, exit_index].tolist(), labels.tolist(), strict=True)
        )
        assert losses[exit_index].item() == pytest.approx(expected / 5, rel=1e-5)
