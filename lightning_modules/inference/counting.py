"""Costs of a staged model's tiers: each exit's path counted once by fvcore, as a function of length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lightning_modules.adaptive.costs import CostFunction, ModelCosts, fit_cost
from lightning_modules.adaptive.macs import count_macs
from lightning_modules.inference.tier import Tier


def tier_costs(tier: Tier, lengths: Iterable[int]) -> dict[int, CostFunction]:
    """MACs per example of each exit of a tier, head included.

    Args:
        tier: what to count; stays in the mode that it is in.
        lengths: tokens that will be asked for; needed where the cost is no quadratic in the length.
    """
    wanted = sorted({int(length) for length in lengths})

    def cost(exit_index: int) -> CostFunction:
        path = tier.path(exit_index)
        return fit_cost(lambda length: count_macs(path, tier.example(length)), wanted)

    return {index: cost(index) for index in range(len(tier.exits))}


def network_costs(tiers: Iterable[Tier], lengths: Mapping[str, Iterable[Any]]) -> ModelCosts:
    """Cost functions of all tiers, each counted over the lengths that occur.

    Args:
        tiers: of a staged model.
        lengths: per tier the true, padded and charged lengths of all rows, in any order.
    """
    return ModelCosts(
        {
            tier.name: tier_costs(tier, np.unique(np.concatenate([np.asarray(x) for x in lengths[tier.name]])))
            for tier in tiers
        }
    )
