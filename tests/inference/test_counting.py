"""Costs of tiers as functions of length; the counts themselves are tested in tests/adaptive."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.adaptive.macs import count_macs
from lightning_modules.inference.counting import network_costs, path_cost
from lightning_modules.inference.tiers import load_tier

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
    lengths = {"tier1": [np.array([3, 8]), np.array([128, 128])], "tier2": [np.array([4, 9]), np.array([10, 10])]}
    costs = network_costs(tiers, lengths)
    assert costs.answer["tier1"][0]([3, 128]).tolist() == [macs_of_bert(n, layers=1) for n in (3, 128)]
    assert costs.alone("tier2", [9]).tolist() == [macs_of_bert(9, layers=2)]


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
