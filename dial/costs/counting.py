"""Costs of a staged model's tiers: each exit's path counted once by fvcore, as a function of length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn

from dial.costs.functions import CostFunction, ModelCosts, fit_cost
from dial.costs.macs import count_macs
from dial.tiers.loading import longest
from dial.tiers.multi_exit import MultiExitTier
from dial.tiers.tier import Tier


def tier_costs(tier: Tier, lengths: Iterable[int]) -> dict[int, CostFunction]:
    """MACs per example of each exit of a tier, head included.

    Args:
        tier: what to count; stays in the mode that it is in.
        lengths: tokens that will be asked for; needed where the cost is no quadratic in the length.
    """
    wanted = sorted({int(length) for length in lengths})
    return {index: path_cost(tier, tier.path(index), wanted) for index in range(len(tier.exits))}


def path_cost(tier: Tier, path: nn.Module, lengths: Iterable[int]) -> CostFunction:
    """MACs per example of a module that takes the tier's encodings.

    A length beyond the model's positions (the papers' fixed 128, for a model of 64) cannot be run, and so not counted:
    the quadratic of the shorter lengths states it. Without a quadratic the cost function refuses it.

    Longformer fills up a whole window, so that all lengths within it cost the same. Counting it takes as long as
    running it: each window is counted once, and the cost function knows all its lengths.
    """
    wanted = [int(length) for length in lengths]

    def count(length: int) -> int:
        return count_macs(path, tier.example(length))

    def possible(length: int) -> int:
        return longest(tier.tokenizer, tier.model, length)[0]

    reached = [possible(max(1, length)) for length in wanted]
    window = _window(tier.model.config)
    if window > 1 and reached:
        windows = sorted({-(-length // window) * window for length in reached})
        whole = {last: count(possible(last)) for last in windows}
        if count(windows[-1] - window + 1) == whole[windows[-1]]:
            within = {last: range(last - window + 1, possible(last) + 1) for last in windows}
            return CostFunction(counts={length: whole[last] for last in windows for length in within[last]})
    return fit_cost(count, reached)


def _window(config: Any) -> int:
    """Tokens up to a multiple of which a model fills its input; 1 where it does not."""
    window = getattr(config, "attention_window", 1)
    return int(window if isinstance(window, int) else max(window))


def check_countable(tier: Tier, argument: str, length: int = 8) -> int:
    """MACs of one text at the tier's last exit, counted before any work is done with it.

    Args:
        tier: what is to be trained or tested; its tokenizer may still be missing.
        argument: how the user calls it.
        length: tokens of the text.

    Raises:
        ValueError: the work of the model cannot be counted; names ``argument``, the operators and the remedy.
    """
    try:
        counts = [count_macs(tier.path(index), tier.example(length)) for index in sorted({0, len(tier.exits) - 1})]
    except Exception as error:  # whatever a foreign model raises on plain token ids
        reason = " ".join(f"{'' if isinstance(error, ValueError) else f'{type(error).__name__}: '}{error}".split())
        raise ValueError(
            f"`{argument}` must be a model whose multiply-adds can be counted, as all costs rest on them, but those of "
            f"{type(tier.model).__name__} cannot: {reason[:300].rstrip('.')}; or take another model."
        ) from error
    return counts[-1]


def network_costs(tiers: Iterable[Tier], lengths: Mapping[str, Iterable[Any]]) -> ModelCosts:
    """Cost functions of all tiers, each counted over the lengths that occur.

    Args:
        tiers: of a staged model.
        lengths: per tier the true, padded and charged lengths of all rows, in any order.
    """
    tiers = list(tiers)
    wanted = {t.name: np.unique(np.concatenate([np.asarray(x) for x in lengths[t.name]])).tolist() for t in tiers}
    answer = {tier.name: tier_costs(tier, wanted[tier.name]) for tier in tiers}
    reference = {
        tier.name: path_cost(tier, tier.reference_path(), wanted[tier.name])
        for tier in tiers
        if isinstance(tier, MultiExitTier)
    }
    return ModelCosts(answer, reference=reference)
