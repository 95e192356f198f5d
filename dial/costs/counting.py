"""Costs of a staged model's tiers: each exit's path counted once by fvcore, then asked row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from dial.costs.dropping import LayerCosts
from dial.costs.encoder_decoder import writing_cost
from dial.costs.fitting import fit_cost
from dial.costs.functions import CostFunction, Kind, Length, ModelCosts, RowWork, last_window
from dial.costs.macs import count_macs
from dial.models.lengths import Lengths
from dial.tiers.model_inputs import longest
from dial.tiers.tier import Tier


def tier_costs(tier: Tier, lengths: Iterable[int]) -> dict[int, CostFunction]:
    """MACs per example of each exit of a tier, head included.

    Args:
        tier: what to count; stays in the mode that it is in.
        lengths: tokens that will be asked for; needed where the cost is no quadratic in the length.
    """
    wanted = sorted({int(length) for length in lengths})
    read = {index: path_cost(tier, tier.path(index), wanted) for index in range(len(tier.exits))}
    if not tier.generates:
        return read
    longest_text = longest(tier.tokenizer, tier.model, max(wanted))[0]
    writing = writing_cost(tier, longest_text)
    return {index: replace(cost, writing=writing) for index, cost in read.items()}


SPAN = 8  # tokens up to which a path is counted at the least


def path_cost(tier: Tier, path: nn.Module, lengths: Iterable[int]) -> CostFunction:
    """MACs per example of a module that takes the tier's encodings.

    Of a tier that reads long rows in several windows, lengths are those of whole rows, and windows are counted.

    Args:
        tier: whose encodings.
        path: what is counted.
        lengths: that will be asked for.
    """
    if tier.window is None:
        return _cost_at_once(tier, path, lengths)
    within = {tier.window, *(last_window(max(1, int(length)), tier.window) for length in lengths)}
    return replace(_cost_at_once(tier, path, within), window=tier.window)


def _cost_at_once(tier: Tier, path: nn.Module, lengths: Iterable[int]) -> CostFunction:
    """MACs per example of what is read at once.

    A length beyond the model's positions (the papers' fixed 128, for a model of 64) cannot be run, and so not counted:
    the quadratic of the shorter lengths states it. Without a quadratic the cost function refuses it.

    Longformer fills up a whole window, so that all lengths within it cost the same. Counting it takes as long as
    running it: each window is counted once, and the cost function knows all its lengths.
    """
    wanted = [int(length) for length in lengths]
    if (kept := getattr(path, "lengths", None)) is not None:
        return _dropping_cost(tier, path, kept, wanted)

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
    if max(reached, default=SPAN) < SPAN:  # too close together for a quadratic, which longer rows would then lack
        reached.append(possible(SPAN))
    return fit_cost(count, reached)


def _dropping_cost(tier: Tier, path: nn.Module, kept: Lengths, lengths: Iterable[int]) -> CostFunction:
    """MACs of a path that drops tokens, at every length up to the longest; see :class:`LayerCosts`."""
    wanted = {longest(tier.tokenizer, tier.model, max(1, length))[0] for length in (*lengths, tier.max_length)}
    try:
        cost = LayerCosts(tier, path)
    except ValueError:  # no formula: each length is counted
        return CostFunction(counts={length: count_macs(path, tier.example(length)) for length in sorted(wanted)})
    every = np.arange(1, max(wanted) + 1)
    macs = np.rint(cost(every, kept)).astype(np.int64)
    return CostFunction(counts=dict(zip(every.tolist(), macs.tolist(), strict=True)))


def _window(config: Any) -> int:
    """Tokens up to a multiple of which a model fills its input; 1 where it does not."""
    window = getattr(config, "attention_window", 1)
    return int(window if isinstance(window, int) else max(window))


def check_countable(tier: Tier, argument: str, length: int = 8) -> int:
    """MACs of one text at the tier's last exit, counted before any work is done with it.

    Where the tier writes, the first piece of the answer is in them.

    Args:
        tier: what is to be trained or tested; its tokenizer may still be missing.
        argument: how the user calls it.
        length: tokens of the text.

    Raises:
        ValueError: the work of the model cannot be counted; names ``argument``, the operators and the remedy.
    """
    try:
        counts = [count_macs(tier.path(index), tier.example(length)) for index in sorted({0, len(tier.exits) - 1})]
        if tier.generates:
            writing = tier.writing_path(1)
            counts[-1] += count_macs(writing, writing.example(length))
    except Exception as error:  # whatever a foreign model raises on plain token ids
        reason = " ".join(f"{'' if isinstance(error, ValueError) else f'{type(error).__name__}: '}{error}".split())
        raise ValueError(
            f"`{argument}` must be a model whose multiply-adds can be counted, as all costs rest on them, but those of "
            f"{type(tier.model).__name__} cannot: {reason[:300].rstrip('.')}; or take another model."
        ) from error
    return counts[-1]


def padded_lengths(lengths: np.ndarray, window: int | None) -> np.ndarray:
    """Tokens of the rows of one batch with its padding, ``(B,)``.

    Args:
        lengths: ``(B,)`` tokens of the rows.
        window: see :attr:`~dial.tiers.contract.TierContract.window`.

    >>> padded_lengths(np.array([3, 5]), None), padded_lengths(np.array([3, 10]), 8)
    (array([5, 5]), array([ 8, 16]))
    """
    longest = int(lengths.max(initial=0))
    if window is None or longest <= window:
        return np.full_like(lengths, longest)
    return -(-lengths // window) * window


def network_costs(
    tiers: Iterable[Tier],
    lengths: Mapping[str, np.ndarray],
    padded: Mapping[str, np.ndarray] | None = None,
    convention: Length = "true",
) -> ModelCosts:
    """Cost functions of all tiers, each counted over the lengths that occur.

    Args:
        tiers: of a staged model.
        lengths: per tier the tokens of all rows, in any order.
        padded: per tier the padded lengths of all rows; None where they are not asked for.
        convention: of the lengths that rows are charged at.
    """
    answer: dict[str, dict[int, CostFunction]] = {}
    decide: dict[str, dict[int, CostFunction]] = {}
    reference: dict[str, CostFunction] = {}
    for tier in tiers:
        work = RowWork(lengths[tier.name], padded[tier.name] if padded else lengths[tier.name])
        wanted = np.unique(np.concatenate([work.charged(which) for which in ("true", "padded", convention)])).tolist()
        answer[tier.name] = tier_costs(tier, wanted)
        if tier.generates and tier.answers_later:  # what decides has been read before anything is written
            decide[tier.name] = {index: replace(cost, writing=None) for index, cost in answer[tier.name].items()}
        if (path := tier.reference_path()) is not None:
            reference[tier.name] = path_cost(tier, path, wanted)
    return ModelCosts(answer, decide, reference)


class RowCosts:
    """Costs of single rows, from tables by length.

    Where a cost is no quadratic in the length and a length was never counted, it is counted when it first occurs.

    Args:
        tiers: of the staged model.
        costs: cost functions of all their exits.
        length: tokens at which a row is charged: its own (``true``), those of its padded batch, or a fixed number.
        reference: tier whose cost the saving refers to; default: the last.
        longer: tokens of that tier's encodings per token of each tier's, on average, 1 where not given; rows that the
            first tier at work answers are never tokenised for another one.
        pieces: that each tier writes for a row, on average; needed of the reference, if it writes its answers and is
            not the tier at work.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        costs: ModelCosts,
        length: Length = "true",
        reference: str | None = None,
        longer: Mapping[str, float] | None = None,
        pieces: Mapping[str, float] | None = None,
    ) -> None:
        self.tiers, self.costs, self.length, self.longer = list(tiers), costs, length, longer or {}
        self.pieces = pieces or {}
        names = [tier.name for tier in self.tiers]
        self.reference = names.index(reference) if reference in names else len(names) - 1
        self._tables: dict[tuple[int, int, Kind], np.ndarray] = {}

    def answer(self, tier: int, exits: np.ndarray, work: RowWork) -> np.ndarray:
        """MACs ``(R,)`` of a tier's path to an exit ``(R,)`` and the answer there.

        Args:
            tier: its position.
            exits: position of the exit of each row.
            work: what the tier did for the rows.
        """
        charged = work.charged(self.length)
        macs = np.empty(len(exits))
        for index in np.unique(exits):
            at = exits == index
            pieces = None if work.generated is None else np.broadcast_to(work.generated, charged.shape)[at]
            macs[at] = self._macs(tier, int(index), "answer", charged[at], pieces)
        return macs

    def passing(self, tier: int, work: RowWork, wrote: bool = False) -> np.ndarray:
        """MACs ``(R,)`` of a whole tier where its last exit passes the rows on: up to the decision there.

        Args:
            tier: its position.
            work: what the tier did for the rows.
            wrote: whether the finished answers decided.
        """
        kind: Kind = "answer" if wrote else "decide"
        return self._macs(tier, len(self.tiers[tier].exits) - 1, kind, work.charged(self.length), work.generated)

    def alone(self, work: RowWork, tier: int = 0) -> np.ndarray:
        """MACs ``(R,)`` of the reference without routing, from what a tier did (the first that runs)."""
        charged, reference = work.charged(self.length), self.tiers[self.reference]
        if not isinstance(self.length, int):
            longer = self.longer.get(self.tiers[tier].name, 1.0)
            charged = np.rint(charged * longer).astype(np.int64)
            charged = charged if reference.window else np.minimum(charged, reference.max_length)
        pieces = work.generated if tier == self.reference else self.pieces.get(reference.name)
        return self._macs(self.reference, len(reference.exits) - 1, "reference", charged, pieces)

    def _macs(
        self, tier: int, index: int, kind: Kind, lengths: np.ndarray, pieces: ArrayLike | None = None
    ) -> np.ndarray:
        """MACs ``(R,)``: what was read from a table by length, and what was written."""
        cost = self.costs.function(self.tiers[tier].name, index, kind)
        read = self._read(tier, index, kind, lengths)
        return read if cost.writing is None else read + cost.written(lengths, pieces)

    def _read(self, tier: int, index: int, kind: Kind, lengths: np.ndarray) -> np.ndarray:
        """MACs ``(R,)`` from a table by length, which is made longer and completed where need be."""
        key, owner = (tier, index, kind), self.tiers[tier]
        table = self._tables.get(key)
        top = int(lengths.max()) if len(lengths) else 0
        if table is None or len(table) <= top:
            table = self._tables[key] = self.costs.function(owner.name, index, kind).by_length(
                max(top, owner.max_length) + 1
            )
        macs = table[lengths]
        if np.isnan(macs).any():
            unknown = np.unique(lengths[np.isnan(macs)])
            reference = owner.reference_path() if kind == "reference" else None
            fresh = path_cost(owner, owner.path(index) if reference is None else reference, unknown.tolist())
            table[unknown] = fresh(unknown)
            counted = fresh.by_length(len(table)) if fresh.counts else table  # a whole window at once
            table[~np.isnan(counted)] = counted[~np.isnan(counted)]
            macs = table[lengths]
        return macs
