"""Exits and dropped tokens together: the full computation against a plain loop, and rows that leave against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dial.costs.counting import tier_costs
from dial.models import MultiExitForSequenceClassification, build_word_tokenizer
from dial.models.lengths import Lengths
from dial.tiers.multi_exit import MultiExitTier
from dial.tiers.tier import View
from tests.models.families import classifier, tokens
from tests.models.test_token_dropping import FAMILY, reference

LENGTHS = (Lengths((0.8, 0.55, 0.3)), Lengths((1.0, 1.0, 0.4)), Lengths((6, 6, 2)))


def with_exits(name: str, pooling: str = "first") -> Any:
    model = MultiExitForSequenceClassification.from_encoder(classifier(name), pooling=pooling).eval()
    with torch.no_grad():
        for head in model.heads:
            head.linear.weight.normal_(std=0.6)
    return model


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("name", FAMILY)
def test_all_exits_equal_the_loop(name: str, pooling: str) -> None:
    model, inputs = with_exits(name, pooling), tokens(4, 11)
    naive = classifier(name)
    naive.set_attn_implementation("eager")
    naive.base_model.load_state_dict(model.encoder.state_dict(), strict=False)
    for lengths in LENGTHS:
        with torch.no_grad():
            found = model(**inputs, lengths=lengths).logits
        for row in range(4):
            ids = inputs["input_ids"][row, : int(inputs["attention_mask"][row].sum())]
            for exit_index, head in enumerate(model.heads):
                depth = exit_index + 1
                few = classifier(name, **{"n_layers" if name == "distilbert" else "num_hidden_layers": depth})
                few.set_attn_implementation("eager")
                few.base_model.load_state_dict(naive.base_model.state_dict(), strict=False)
                with torch.no_grad():
                    states, left = reference(few, ids, Lengths(lengths.values[:depth]))
                    token = states[0] if pooling == "first" else states[left[-1]].mean(dim=0)
                    torch.testing.assert_close(found[row, exit_index], head(token[None])[0], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("padded", ["right", None])
@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("name", FAMILY)
def test_rows_that_leave_change_no_others(name: str, pooling: str, padded: str | None) -> None:
    model, inputs = with_exits(name, pooling), tokens(9, 13, padded)
    random, own = np.random.default_rng(0), inputs.get("attention_mask", torch.ones(9, 13)).sum(dim=1)
    longest_first = 2 - (own > 4).long() - (own > 10).long()  # so that those that stay become narrower
    for lengths in (*LENGTHS, None):
        with torch.no_grad():
            whole = model(**inputs, lengths=lengths).logits
            for leaves in (longest_first, *(torch.from_numpy(random.integers(0, 3, 9)) for _ in range(4))):
                seen: list[tuple[int, list[int]]] = []

                def go_on(
                    index: int, rows: Tensor, logits: Tensor, leaves: Tensor = leaves, seen: Any = seen
                ) -> Tensor:
                    seen.append((index, rows.tolist()))
                    torch.testing.assert_close(logits, whole[rows, index], atol=5e-5, rtol=1e-4)  # noqa: B023
                    return leaves[rows] > index

                model.run(inputs, go_on, lengths=lengths)
                assert seen == [(k, torch.nonzero(leaves >= k)[:, 0].tolist()) for k in range(3) if (leaves >= k).any()]


def test_fillings_leave_with_the_rows_that_needed_them() -> None:
    """Once the longest row is gone, the layers compute no more tokens than the longest that stays keeps."""
    model, inputs = with_exits("bert"), tokens(3, 16, None)
    mask = torch.tensor([[1] * 16, [1] * 6 + [0] * 10, [1] * 4 + [0] * 12])
    widths: list[tuple[int, ...]] = []
    for layer in model.layers:
        layer.intermediate.register_forward_hook(lambda module, args, output: widths.append(tuple(args[0].shape[:2])))
    lengths = Lengths((0.5, 0.5, 0.5))
    with torch.no_grad():
        model.run(
            {"input_ids": inputs["input_ids"], "attention_mask": mask},
            lambda k, rows, logits: rows > 0,
            lengths=lengths,
        )
    assert widths == [(3, 8), (2, 3), (2, 3)]


def tier(name: str) -> MultiExitTier:
    model = with_exits(name)
    model.set_attn_implementation("eager")  # torch's counter does not see fused attention on CPUs
    words = build_word_tokenizer(["a"], 40, 30, True)
    return MultiExitTier("model", View("nowhere"), model, words, 30, ["a", "b", "c"]).eval()


@pytest.mark.parametrize("name", ["bert", "mpnet"])
def test_costs_of_each_exit(name: str) -> None:
    model, lengths = tier(name), LENGTHS[0]
    model.drop_tokens(lengths)
    costs = tier_costs(model, [30])
    for exit_index in range(3):
        path = model.path(exit_index)
        for length in (1, 8, 17, 30):
            example = model.example(length)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                path(**example)
            assert costs[exit_index]([length])[0] == counter.get_total_flops() // 2
    assert costs[0]([20])[0] < costs[1]([20])[0] < costs[2]([20])[0]


def test_exits_that_read_the_last_token_are_refused() -> None:
    model = tier("bert")
    model.model.config.pooling = "last"
    with pytest.raises(ValueError, match="`path` must have exits that read the first token or the mean"):
        model.drop_tokens(LENGTHS[0])
