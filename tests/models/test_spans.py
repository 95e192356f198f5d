"""The search of spans against plain loops over all pairs of tokens of all windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from datamodules.windows import OUTSIDE, WindowTokeniser, window_batch
from dial.models.spans import NOWHERE, SPAN_SCORES, find_spans
from tests.tiers.readers import STRIDE, WINDOW, questions, tokenizer

MOST = 4


@pytest.fixture(scope="module")
def batch():
    tokeniser = WindowTokeniser(tokenizer(), WINDOW, STRIDE)
    return window_batch(tokeniser(questions(30, seed=5)), tokeniser.padding)


def naive(batch, logits, no_answer: bool, temperature: float):
    """Answers of each row, best first, as (value, span, probability), and its scores, one pair of tokens at a time."""
    answers: dict[int, dict] = {}
    nothing: dict[int, tuple[float, float]] = {}
    energies = {}
    for window, row in enumerate(batch["row"].tolist()):
        starts, ends = batch["starts"][window].tolist(), batch["ends"][window].tolist()
        tokens = [t for t, s in enumerate(starts) if s != OUTSIDE]
        sums = [sum(math.exp(logits[window][t][side] / temperature) for t in [0, *tokens]) for side in (0, 1)]
        energies[window] = temperature * (math.log(sums[0]) + math.log(sums[1]))

        def chance(i: int, j: int, window: int = window, sums: list[float] = sums, places=(starts, ends)) -> float:
            both = 1.0
            for side, token in enumerate((i, j)):
                alike = [t for t, place in enumerate(places[side]) if place == places[side][token] != OUTSIDE] or [
                    token
                ]
                both *= sum(math.exp(logits[window][t][side] / temperature) for t in alike) / sums[side]
            return both

        for i in tokens:
            for j in tokens:
                if i <= j < i + MOST:
                    value, span = logits[window][i][0] + logits[window][j][1], (starts[i], ends[j])
                    if value > answers.setdefault(row, {}).get(span, (-math.inf,))[0]:
                        answers[row][span] = (value, span, chance(i, j), window)
        value = logits[window][0][0] + logits[window][0][1]
        if value < nothing.get(row, (math.inf,))[0]:
            nothing[row] = (value, NOWHERE, chance(0, 0), window)
    found, scores = [], {name: [] for name in SPAN_SCORES}
    for row in sorted(answers):
        spans = sorted(answers[row].values(), key=lambda answer: -answer[0])
        gap = spans[0][0] - nothing[row][0]
        ordered = sorted([*spans, nothing[row]], key=lambda answer: -answer[0]) if no_answer else spans
        found.append(ordered)
        scores["softmax"].append(ordered[0][2])
        scores["margin"].append(ordered[0][2] - (ordered[1][2] if len(ordered) > 1 else 0))
        scores["energy"].append(energies[ordered[0][3]])
        scores["no_answer_gap"].append(abs(gap) if no_answer else gap)
    return found, scores


@pytest.mark.parametrize(("no_answer", "temperature"), [(False, 1.0), (True, 1.0), (True, 2.5)])
def test_answers_and_scores_are_those_of_plain_loops(batch, no_answer: bool, temperature: float) -> None:
    torch.manual_seed(1)
    logits = torch.randn(*batch["input_ids"].shape, 2)
    logits[:, 0] += 1.5 * no_answer  # so that some rows have no answer
    found = find_spans(logits, batch["starts"], batch["ends"], batch["row"], MOST, no_answer, temperature, count=5)
    expected, scores = naive(batch, logits.double().tolist(), no_answer, temperature)
    nothing = 0
    for mine, theirs in zip(found.candidates, expected, strict=True):
        assert [each.span for each in mine] == [span for _, span, _, _ in theirs[:5]]
        assert np.allclose([each.probability for each in mine], [chance for _, _, chance, _ in theirs[:5]])
        assert np.allclose([each.value for each in mine], [value for value, *_ in theirs[:5]])
        nothing += mine[0].span == NOWHERE
    assert (nothing > 2) == no_answer and nothing < len(expected) - 2
    for name in SPAN_SCORES:
        assert np.allclose(found.scores[name], scores[name]), name


def test_spans_of_overlapping_windows_count_once_with_the_better_value(batch) -> None:
    """Logits go by the place in the context, and a little by the window, so that neighbours agree on the best spans."""
    torch.manual_seed(4)
    by_place = torch.randn(int(batch["row"][-1]) + 1, int(batch["ends"].max()) + 1, 2)
    logits = by_place[batch["row"].unsqueeze(1), batch["starts"].clamp(min=0).long()]
    logits = logits + 1e-3 * torch.randn_like(logits)
    found = find_spans(logits, batch["starts"], batch["ends"], batch["row"], MOST, False, count=8)
    expected, _ = naive(batch, logits.double().tolist(), False, 1.0)
    for mine, theirs in zip(found.candidates, expected, strict=True):
        assert [each.span for each in mine] == [span for _, span, _, _ in theirs[:8]]


def test_scores_are_finite_for_large_logits_and_do_not_depend_on_other_rows(batch) -> None:
    torch.manual_seed(2)
    logits = torch.randn(*batch["input_ids"].shape, 2) * 1e4
    places = batch["starts"], batch["ends"], batch["row"]
    found = find_spans(logits, *places, MOST, True)
    assert all(np.isfinite(values).all() for values in found.scores.values())
    last = batch["row"] == batch["row"][-1]
    alone = find_spans(
        logits[last], *(place[last] for place in places[:2]), torch.zeros(int(last.sum())).long(), MOST, True
    )
    for name, values in alone.scores.items():
        assert values[0] == found.scores[name][-1]


@pytest.mark.parametrize("count", [2, 5])
def test_of_spans_at_one_place_the_best_counts(batch, count: int) -> None:
    """Pairs and triples of neighbours are parts of one character, as byte-level pieces are."""
    torch.manual_seed(6)
    parts = {key: value.clone() for key, value in batch.items()}
    for starts, ends in zip(parts["starts"], parts["ends"], strict=True):
        tokens = torch.nonzero(starts != OUTSIDE).flatten().tolist()
        for group in (tokens[0:2], tokens[3:6], tokens[7:9]):
            if group:
                starts[group], ends[group] = starts[group[0]].clone(), ends[group[-1]].clone()
    logits = 3 * torch.randn(*batch["input_ids"].shape, 2)
    found = find_spans(logits, parts["starts"], parts["ends"], parts["row"], MOST, False, count=count)
    expected, scores = naive(parts, logits.double().tolist(), False, 1.0)
    for mine, theirs in zip(found.candidates, expected, strict=True):
        assert [each.span for each in mine] == [span for _, span, _, _ in theirs[:count]]
        assert np.allclose([each.probability for each in mine], [chance for _, _, chance, _ in theirs[:count]])
    for name in SPAN_SCORES:
        assert np.allclose(found.scores[name], scores[name]), name


@pytest.mark.parametrize("count", [2, 3, 10])
def test_tokens_of_one_character_are_one_place_whatever_the_count(count: int) -> None:
    """Four tokens of one character, as byte-level pieces of an emoji."""
    starts = torch.tensor([[-1, 0, 2, 2, 2, 2, 4]])
    ends = torch.tensor([[-1, 1, 3, 3, 3, 3, 6]])
    logits = torch.zeros(1, 7, 2)
    logits[0, 2:6] = 3.0
    found = find_spans(logits, starts, ends, torch.tensor([0]), 30, False, count=count)
    total = 3 + 4 * math.exp(3)  # the first token, two others, and four of the character
    assert found.candidates[0][0].span == (2, 3)
    best, other = (4 * math.exp(3) / total) ** 2, 4 * math.exp(3) / total / total
    assert found.scores["softmax"][0] == pytest.approx(best)
    assert found.scores["margin"][0] == pytest.approx(best - other)
    places = {(0, 1), (2, 3), (4, 6), (0, 3), (0, 6), (2, 6)}
    assert len(found.candidates[0]) == min(count, len(places))
    assert {each.span for each in found.candidates[0]} <= places
