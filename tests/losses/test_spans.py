"""Losses of spans against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from dial.losses.spans import carried_over, span_cross_entropy, span_distillation

W, T = 4, 7


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(0)
    values = torch.randn(W, T, 2, requires_grad=True)
    return values.masked_fill(torch.tensor([False, True, True, False, False, False, False])[:, None], -torch.inf)


def share(values: list[float], place: int, temperature: float = 1.0) -> float:
    total = sum(math.exp(value / temperature) for value in values if value > -math.inf)
    return math.exp(values[place] / temperature) / total if values[place] > -math.inf else 0.0


def test_cross_entropy_is_the_mean_of_both_ends(logits) -> None:
    starts, ends = torch.tensor([0, 3, 4, 6]), torch.tensor([0, 5, 4, 6])
    expected = [0.0] * W
    for window in range(W):
        for side, places in enumerate((starts, ends)):
            expected[window] -= math.log(share(logits[window, :, side].tolist(), int(places[window]))) / 2
    assert span_cross_entropy(logits, starts, ends, reduction="none").tolist() == pytest.approx(expected)
    assert span_cross_entropy(logits, starts, ends).item() == pytest.approx(sum(expected) / W)


def test_distillation_is_over_the_tokens_that_both_know(logits) -> None:
    torch.manual_seed(1)
    teacher, temperature = torch.randn(W, T, 2), 2.0
    teacher[:, 0], teacher[1, 5], teacher[3] = -torch.inf, -torch.inf, -torch.inf
    found = span_distillation(logits, teacher, temperature)
    expected = 0.0
    for window in range(W - 1):  # of the last window the teacher says nothing
        for side in (0, 1):
            theirs, mine = teacher[window, :, side].tolist(), logits[window, :, side].tolist()
            known = [t for t in range(T) if theirs[t] > -math.inf and mine[t] > -math.inf]
            theirs, mine = [theirs[t] for t in known], [mine[t] for t in known]
            for place in range(len(known)):
                p, q = share(theirs, place, temperature), share(mine, place, temperature)
                expected -= p * math.log(q) * temperature**2 / (2 * (W - 1))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()


def test_a_teacher_that_knows_no_token_teaches_nothing(logits) -> None:
    loss = span_distillation(logits, torch.full((W, T, 2), -torch.inf), 2.0)
    assert loss.item() == 0 and loss.requires_grad


def test_a_window_of_which_the_teacher_knows_starts_alone_is_left_out(logits) -> None:
    torch.manual_seed(2)
    teacher = torch.randn(W, T, 2)
    whole = span_distillation(logits[1:], teacher[1:], 2.0)
    teacher[0, :, 1] = -torch.inf
    assert span_distillation(logits, teacher, 2.0).item() == pytest.approx(whole.item())


def test_logits_are_carried_over_by_where_tokens_begin_and_where_they_end() -> None:
    starts = torch.tensor([[-1, 0, 4, 9], [-1, 4, 9, 12], [-1, 0, 3, 7]])  # two windows of one row, one of another
    ends = torch.tensor([[-1, 4, 9, 12], [-1, 9, 12, 14], [-1, 2, 7, 8]])
    row, logits = torch.tensor([0, 0, 1]), torch.arange(24.0).view(3, 4, 2)
    to_starts, to_row = torch.tensor([[-1, 0, 4, 6, 12], [-1, 3, 4, 7, -1]]), torch.tensor([0, 1])
    to_ends = torch.tensor([[-1, 2, 6, 9, 14], [-1, 4, 7, 8, -1]])
    found = carried_over(logits, (starts, ends), row, (to_starts, to_ends), to_row)
    # Of "no answer" that of the window which shares most: characters 0 to 12 with windows of 0 to 9 and of 4 to 12.
    assert found[0, 0].tolist() == logits[0, 0].tolist() and found[1, 0].tolist() == logits[2, 0].tolist()
    for side, (places, wanted) in enumerate(((starts, to_starts), (ends, to_ends))):
        for window, line in enumerate(wanted.tolist()):
            for token, place in list(enumerate(line))[1:]:
                known = [
                    float(logits[w, t, side])
                    for w in range(3)
                    for t in range(4)
                    if place >= 0 and int(row[w]) == window and int(places[w, t]) == place
                ]
                assert float(found[window, token, side]) == max(known, default=-math.inf)


def test_the_end_of_a_longer_piece_is_taught_to_the_last_of_its_parts() -> None:
    """The teacher reads "playing" as one piece, the student as "play" and "##ing": the answer is the whole word."""
    teacher = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]])
    places, to_places = (
        (torch.tensor([starts]), torch.tensor([ends]))
        for starts, ends in (([-1, 0], [-1, 7]), ([-1, 0, 4], [-1, 4, 7]))
    )
    found = carried_over(teacher, places, torch.tensor([0]), to_places, torch.tensor([0]))
    assert found[0].tolist() == [[0.0, 0.0], [9.0, -math.inf], [-math.inf, 9.0]]


def test_no_answer_of_a_window_without_one_is_carried_over_from_its_like() -> None:
    starts = torch.tensor([[-1, 0, 4], [-1, 4, 9], [-1, 20, 24]])
    logits = torch.zeros(3, 3, 2)
    logits[:, 0, 0], logits[:, 0, 1] = torch.tensor([1.0, 9.0, 5.0]), torch.tensor([2.0, 8.0, 6.0])
    to_starts = torch.tensor([[-1, 5, 9], [-1, 22, 26], [-1, 0, 2], [-1, 40, 44], [-1, 4, -1]])
    places, to_places = ((each, torch.where(each < 0, each, each + 2)) for each in (starts, to_starts))
    found = carried_over(logits, places, torch.zeros(3).long(), to_places, torch.tensor([0, 0, 0, 0, 1]))
    none = [-math.inf] * 2  # no window of the teacher holds any of it
    assert found[:, 0].tolist() == [[9.0, 8.0], [5.0, 6.0], [1.0, 2.0], none, none]
