"""The search for length configurations: draws that are configurations, the front, going on, and real evaluations."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from dial.costs.macs import count_macs
from dial.inference.length_search import Evaluation, Evolution
from dial.models.lengths import Lengths
from dial.stages.metrics.metrics import METRICS
from dial.tiers.fronts import Individual, pareto
from dial.tiers.loading import load_tier
from tests.tiers import readers

NAMES = ["negative", "positive"]
SQUAD_EM: Any = METRICS["squad_em"]


def made_up(lengths: Lengths) -> tuple[float, float]:
    """The first layer's tokens are dear and worth nothing, the last one's cheap and worth much, up to a half."""
    first, *_, last = lengths.values
    return 0.5 * first + 0.1 * sum(lengths.values), round(min(last, 0.5), 2)


def run(evolution: Evolution, **more: Any) -> list[Individual]:
    return list(evolution.run(made_up, **{"done": [], **more}))[-1]


def test_every_individual_is_a_configuration_and_looked_at_once() -> None:
    asked: list[Lengths] = []

    def evaluate(lengths: Lengths) -> tuple[float, float]:
        asked.append(lengths)
        return made_up(lengths)

    (*_, found) = Evolution(depth=4, population=6, generations=8).run(evaluate, [])
    assert len(asked) == len(set(asked)) == len(found)
    for one in found:
        assert len(one.lengths.values) == 4 and all(a >= b for a, b in pairwise(one.lengths.values))
    assert found[0].lengths.values == (1.0,) * 4
    assert found[5].lengths.values == (0.8, 0.64, 0.512, 0.41)  # the least of the first generation


def test_generations_improve_the_front() -> None:
    evolution = Evolution(depth=4, population=20, generations=60)
    first, *_, last = evolution.run(made_up, [])

    def cheapest(found: list[Individual], quality: float) -> float:
        return min(one.macs for one in found if one.quality >= quality)

    best = 0.5 * 0.5 + 0.1 * 4 * 0.5  # all layers keep a half
    assert best <= cheapest(last, 0.5) < 0.5 * best + 0.5 * cheapest(first, 0.5)


def test_a_generation_is_of_mutants_and_of_means_of_the_front() -> None:
    """A layer that is drawn anew lies between the parent's next layer and the child's layer before."""
    parents = [(0.9, 0.6, 0.3), (0.5, 0.4, 0.2)]
    front = [Individual(Lengths(values), 0.5, 0.5) for values in parents]
    drawn = Evolution(depth=3, population=80, generations=3, mutation=0.3)._generation(1, front)
    mutants, crossed = drawn[:40], drawn[40:]
    assert {lengths.values for lengths in crossed} == {*parents, (0.7, 0.5, 0.25)}
    changed = 0
    for child in mutants:
        kept = [
            all(
                child.values[i] == min(parent[i], before) or (*parent, 0.001)[i + 1] <= child.values[i] <= before
                for i, before in enumerate((1.0, *child.values[:-1]))
            )
            for parent in parents
        ]
        assert any(kept)
        changed += sum(child.values[i] not in {parent[i] for parent in parents} for i in range(3))
    assert 0.2 < changed / (3 * len(mutants)) < 0.4


def test_the_front_by_a_plain_loop() -> None:
    found = run(Evolution(depth=3, population=8, generations=4))
    beaten = [
        one
        for one in found
        if any(
            other.macs <= one.macs
            and other.quality >= one.quality
            and (other.macs, other.quality) != (one.macs, one.quality)
            for other in found
        )
    ]
    assert {(one.macs, one.quality) for one in pareto(found)} == {
        (one.macs, one.quality) for one in found if one not in beaten
    }
    assert [one.macs for one in pareto(found)] == sorted(one.macs for one in pareto(found))


def test_a_search_that_goes_on_ends_as_one_in_a_piece() -> None:
    evolution = Evolution(depth=3, population=6, generations=5, seed=3)
    steps = [list(found) for found in evolution.run(made_up, [])]
    assert run(evolution, done=steps[2], first=3) == steps[-1]
    assert run(Evolution(depth=3, population=6, generations=5, seed=4)) != steps[-1]


@pytest.mark.parametrize(
    ("name", "value"), [("population", 1), ("generations", -1), ("mutation", 0.0), ("length_drop", 1.0), ("seed", -1)]
)
def test_bad_settings(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^`{name}` must be"):
        Evolution(depth=3, **{name: value})


def test_an_evaluation_by_rows_one_by_one(make_tiny_bert: Any) -> None:
    path = make_tiny_bert(layers=2, labels=NAMES, hidden_size=16, initializer_range=0.5)
    tier, lengths = load_tier(str(path), "model", NAMES).eval(), Lengths((0.7, 0.3))
    units = ["the film was not good", "a very dull plot", "fine", "great cast and great plot but so poor"] * 5
    label = np.random.default_rng(0).integers(0, 2, len(units))
    evaluation = Evaluation(tier, units, label, "accuracy", batch_size=3)
    macs, quality = evaluation(lengths)
    assert tier.lengths is None
    right, spent, whole = 0, 0, 0
    count = cache(lambda length, dropped: count_macs(tier.path(0), tier.example(length)))
    for unit, answer in zip(units, label, strict=True):
        encoding = dict(tier.tokenizer(unit, return_tensors="pt"))
        whole += count(encoding["input_ids"].shape[1], False)
        tier.drop_tokens(lengths)
        spent += count(encoding["input_ids"].shape[1], True)
        with torch.no_grad():
            right += int(tier(encoding)[0, 0].argmax()) == answer
        tier.drop_tokens(None)
    assert quality == right / len(units) and macs == pytest.approx(spent / whole, abs=1e-12)


def test_questions_by_their_answers_one_by_one() -> None:
    tier, lengths = readers.reader("reader", layers=3), Lengths((0.8, 0.6, 0.5))
    units = readers.questions(9, seed=1)
    with torch.no_grad():
        right = [tier.write(one(tier, unit), torch.tensor([0])).texts[0] for unit in units]
    references = [(text,) if index % 2 else ("nothing of the kind",) for index, text in enumerate(right)]
    evaluation = Evaluation(tier, units, references, "squad_em", batch_size=4)
    whole = Lengths((1.0, 1.0, 1.0))
    assert evaluation(whole) == (
        1.0,
        np.mean([len(each) == 1 and each[0] == text for each, text in zip(references, right, strict=True)]),
    )
    macs, quality = evaluation(lengths)
    tier.drop_tokens(lengths)
    with torch.no_grad():
        texts = [tier.write(one(tier, unit), torch.tensor([0])).texts[0] for unit in units]
    same = [SQUAD_EM.of_pair(text, each[0]) for text, each in zip(texts, references, strict=True)]
    assert quality == pytest.approx(np.mean(same)) and macs < 0.9


def one(tier: Any, unit: tuple[str, str]) -> Any:
    return tier.tokeniser().collate(tier.tokeniser()([unit]))
