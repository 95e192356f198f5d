"""Costs of tiers as functions of length; the counts themselves are tested in tests/adaptive."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dial.costs import counting
from dial.costs.counting import RowCosts, check_countable, network_costs, path_cost
from dial.costs.functions import ModelCosts, RowWork
from dial.costs.macs import count_macs
from dial.tiers.loading import load_tier
from dial.tiers.tier import Tier, View
from tests.models.families import classifier

DATA = ["negative", "positive"]


def macs_of_bert(length: int, layers: int) -> int:
    """Products of a BERT of width 16 and 32 with two labels, written out."""
    layer = length * (4 * 16 * 16 + 2 * 16 * 32) + 2 * length**2 * 16
    return layers * layer + 16 * 16 + 16 * 2


@pytest.mark.parametrize("wanted", [[128], [5, 9, 128], [40]])
def test_a_fixed_length_beyond_the_positions_follows_the_quadratic(tiny_bert: Path, wanted: list[int]) -> None:
    tier = load_tier(str(tiny_bert), "super", DATA)  # 32 positions
    cost = path_cost(tier, tier.path(0), wanted)
    assert cost(wanted).tolist() == [macs_of_bert(length, layers=2) for length in wanted]
    with pytest.raises(RuntimeError, match="size"):
        count_macs(tier.path(0), tier.example(128))  # which is why it is not counted there


def test_costs_of_a_cascade_are_counted_where_rows_are(make_tiny_bert: Callable[..., Path]) -> None:
    tiers = [load_tier(str(make_tiny_bert(layers=n)), f"tier{n}", DATA) for n in (1, 2)]
    lengths = {"tier1": np.array([3, 8]), "tier2": np.array([4, 9])}
    costs = network_costs(tiers, lengths, {"tier1": np.array([8, 128]), "tier2": np.array([10, 10])}, 128)
    assert costs.answer["tier1"][0]([3, 128]).tolist() == [macs_of_bert(n, layers=1) for n in (3, 128)]
    assert costs.alone("tier2", [9]).tolist() == [macs_of_bert(9, layers=2)]


def test_rows_of_a_few_tokens_tell_the_cost_of_longer_ones(tiny_bert: Path) -> None:
    tier = load_tier(str(tiny_bert), "super", DATA)
    cost = path_cost(tier, tier.path(0), [3, 4])
    assert cost([2, 3, 60]).tolist() == [macs_of_bert(n, layers=2) for n in (2, 3, 60)]


def test_without_a_quadratic_a_length_beyond_the_positions_is_refused(tiny_bert: Path) -> None:
    class Dropping(torch.nn.Module):
        """Keeps half of the tokens, rounded down."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.linear = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 16)

        def forward(self, input_ids: torch.Tensor, **rest: torch.Tensor) -> torch.Tensor:
            return self.linear(self.table(input_ids[:, : input_ids.shape[1] // 2]))

    tier = load_tier(str(tiny_bert), "super", DATA)
    cost = path_cost(tier, Dropping(), [7, 20, 128])
    assert cost([7, 20]).tolist() == [3 * 256, 10 * 256]
    with pytest.raises(ValueError, match=r"lengths must be among the 3 that were counted.*got also \[128\]"):
        cost([128])


# ---- models that fill windows ----


@pytest.fixture
def longformer(tiny_tokenizer: object) -> Tier:
    return Tier(
        "super", View("x"), classifier("longformer", num_labels=2, num_hidden_layers=1), tiny_tokenizer, 32, DATA
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths that are counted from here on."""
    lengths: list[int] = []

    def count(module: nn.Module, example: dict[str, torch.Tensor]) -> int:
        lengths.append(example["input_ids"].shape[1])
        return count_macs(module, example)

    monkeypatch.setattr(counting, "count_macs", count)
    return lengths


def test_each_window_is_counted_once_and_all_its_lengths_are_known(longformer: Tier, counted: list[int]) -> None:
    cost = path_cost(longformer, longformer.path(0), [3, 5, 6, 7, 17, 18, 20])
    assert sorted(counted) == [8, 17, 24]  # windows of 8; one length more to see that it is so
    wanted = [1, 5, 19, 24]
    assert cost(wanted).tolist() == [count_macs(longformer.path(0), longformer.example(n)) for n in wanted]
    with pytest.raises(ValueError, match=r"got also \[9\]"):
        cost([9])


def test_a_row_at_work_counts_a_window_at_most(longformer: Tier, counted: list[int]) -> None:
    known = ModelCosts({"super": {0: path_cost(longformer, longformer.path(0), [5])}})
    costs = RowCosts([longformer], known)
    counted.clear()
    for length in (1, 8, 10, 16, 9):
        (macs,) = costs.answer(0, np.array([0]), RowWork(np.array([length]), 16))
        assert macs == count_macs(longformer.path(0), longformer.example(length))
    assert sorted(counted) == [9, 16]


def test_windows_that_nothing_is_filled_up_to_are_not_believed(tiny_bert: Path, counted: list[int]) -> None:
    tier = load_tier(str(tiny_bert), "super", DATA)
    tier.model.config.attention_window = [8, 8]
    assert path_cost(tier, tier.path(0), [5, 9])([5, 9]).tolist() == [macs_of_bert(n, layers=2) for n in (5, 9)]


# ---- before any work ----


@pytest.mark.parametrize("name", ["deberta-v2", "t5", "gpt2"])
def test_operators_without_matrix_work_are_no_hindrance(name: str, tiny_tokenizer: object) -> None:
    tier = Tier("super", View("x"), classifier(name, num_labels=2, eos_token_id=1), tiny_tokenizer, 32, DATA)
    assert check_countable(tier, "model", 9) == count_macs(tier.path(0), tier.example(9)) > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fnet", r"module must use only operators .* aten::fft_fftn\. Add a handle to HANDLES .*handles\.py\)"),
        ("convbert", "ZeroDivisionError: division by zero; or take another model"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_one_line(name: str, reason: str, tiny_tokenizer: object) -> None:
    model = classifier(name, num_labels=2)
    if name == "convbert":
        model.forward = lambda **inputs: 1 / 0
    tier = Tier("super", View("x"), model, tiny_tokenizer, 32, DATA)
    message = f"`model` must be a model whose multiply-adds can be counted, .*{reason}"
    with pytest.raises(ValueError, match=message) as error:
        check_countable(tier, "model")
    assert "\n" not in str(error.value)
