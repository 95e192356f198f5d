"""Costs of encoders that drop tokens: the formula against counts of single lengths, and against torch's counter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dial.costs.counting import network_costs, tier_costs
from dial.costs.dropping import LayerCosts
from dial.costs.macs import count_macs
from dial.models import build_word_tokenizer
from dial.models.lengths import Lengths
from dial.tiers.tier import Tier, View
from tests.models.families import classifier

LENGTHS = (Lengths((0.81, 0.57, 0.23)), Lengths((20, 11, 3)), Lengths((1.0, 1.0, 0.01)))


def tier(name: str, **settings: Any) -> Tier:
    model = classifier(name, max_position_embeddings=40, **settings)
    model.set_attn_implementation("eager")  # torch's counter does not see fused attention on CPUs
    return Tier("model", View("nowhere"), model, build_word_tokenizer(["a"], 40, 36, True), 36, ["a", "b", "c"]).eval()


@pytest.mark.parametrize("name", ["bert", "electra", "distilbert", "mpnet"])
def test_every_length_equals_its_own_count(name: str) -> None:
    model = tier(name)
    for lengths in LENGTHS if name == "bert" else LENGTHS[:1]:
        model.drop_tokens(lengths)
        cost = tier_costs(model, [36])[0]
        assert cost.counts is not None and set(cost.counts) == set(range(1, 37))
        assert cost.counts[23] == count_macs(model.path(0), model.example(23))
        for length in (1, 2, 5, 9, 14, 23, 36):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(model.example(length))
            assert cost.counts[length] == counter.get_total_flops() // 2


def test_uneven_layers_are_counted_one_by_one() -> None:
    model = tier("bert")
    layer = model.model.bert.encoder.layer[1]
    layer.intermediate.dense, layer.output.dense = torch.nn.Linear(16, 9), torch.nn.Linear(9, 16)
    model.drop_tokens(LENGTHS[0])
    found = LayerCosts(model, model.path(0))([7, 31], LENGTHS[0])
    assert found.tolist() == [count_macs(model.path(0), model.example(length)) for length in (7, 31)]


def test_one_formula_serves_all_configurations() -> None:
    model = tier("bert")
    model.drop_tokens(LENGTHS[0])
    costs = LayerCosts(model, model.path(0))
    for lengths in LENGTHS:
        model.drop_tokens(lengths)
        assert costs([33], lengths).tolist() == [count_macs(model.path(0), model.example(33))]


def test_rows_too_short_for_a_formula_are_counted_each() -> None:
    model = tier("bert")
    model.tokenizer.model_max_length = model.max_length = 12
    model.model.config.max_position_embeddings = 12
    model.drop_tokens(LENGTHS[0])
    with pytest.raises(ValueError, match="too short"):
        LayerCosts(model, model.path(0))
    cost = tier_costs(model, [3, 10])[0]
    assert cost([3, 10]).tolist() == [count_macs(model.path(0), model.example(length)) for length in (3, 10)]


def test_the_reference_keeps_all_tokens() -> None:
    model, whole = tier("bert"), tier("bert")
    model.drop_tokens(LENGTHS[0])
    lengths = {"model": np.array([4, 20, 33])}
    costs = network_costs([model], lengths)
    assert costs.alone("model", lengths["model"]).tolist() == tier_costs(whole, [4, 20, 33])[0]([4, 20, 33]).tolist()
    assert (costs.answer["model"][0](lengths["model"]) < costs.alone("model", lengths["model"])).all()
