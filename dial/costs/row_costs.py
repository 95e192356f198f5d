"""What rows at work have cost, in MACs, by the cost functions that ``dial test`` left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from dial.costs.counting import path_cost
from dial.costs.functions import CostFunction, ModelCosts
from dial.tiers.multi_exit import MultiExitTier
from dial.tiers.tier import Tier

Length = Literal["true", "padded"] | int


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
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        costs: ModelCosts,
        length: Length = "true",
        reference: str | None = None,
        longer: Mapping[str, float] | None = None,
    ) -> None:
        self.tiers, self.costs, self.length, self.longer = list(tiers), costs, length, longer or {}
        names = [tier.name for tier in self.tiers]
        self.reference = names.index(reference) if reference in names else len(names) - 1
        self._tables: dict[tuple[int, int, str], np.ndarray] = {}

    def answer(self, tier: int, exits: np.ndarray, lengths: np.ndarray, padded: int) -> np.ndarray:
        """MACs ``(R,)`` of a tier's path to an exit ``(R,)`` and the answer there.

        Args:
            tier: its position.
            exits: position of the exit of each row.
            lengths: ``(R,)`` its tokens.
            padded: tokens of the padded batch.
        """
        charged = self._charged(lengths, padded)
        found = np.empty(len(lengths))
        for index in np.unique(exits):
            at = exits == index
            found[at] = self._table(tier, int(index), "answer", charged[at])[charged[at]]
        return found

    def passing(self, tier: int, lengths: np.ndarray, padded: int) -> np.ndarray:
        """MACs ``(R,)`` of a whole tier where its last exit passes the rows on: up to the decision there."""
        charged = self._charged(lengths, padded)
        return self._table(tier, len(self.tiers[tier].exits) - 1, "decide", charged)[charged]

    def alone(self, lengths: np.ndarray, padded: int, tier: int = 0) -> np.ndarray:
        """MACs ``(R,)`` of the reference without routing, from a tier's lengths (the first that runs)."""
        charged = self._charged(lengths, padded)
        if not isinstance(self.length, int):
            limit = self.tiers[self.reference].max_length
            longer = self.longer.get(self.tiers[tier].name, 1.0)
            charged = np.minimum(np.rint(charged * longer).astype(np.int64), limit)
        return self._table(self.reference, len(self.tiers[self.reference].exits) - 1, "alone", charged)[charged]

    def _charged(self, lengths: np.ndarray, padded: int) -> np.ndarray:
        if self.length == "true":
            return lengths
        return np.full(len(lengths), padded if self.length == "padded" else self.length, dtype=np.int64)

    def _function(self, tier: int, index: int, kind: str) -> CostFunction:
        name = self.tiers[tier].name
        path = self.costs.answer[name][index]
        if kind == "alone":
            return self.costs.reference.get(name, path)
        return self.costs.decide.get(name, {}).get(index, path) if kind == "decide" else path

    def _table(self, tier: int, index: int, kind: str, lengths: np.ndarray) -> np.ndarray:
        """Costs by length, NaN where not known, long enough and complete for ``lengths``."""
        key = tier, index, kind
        table = self._tables.get(key)
        top = int(lengths.max()) if len(lengths) else 0
        if table is None or len(table) <= top:
            function, size = self._function(*key), max(top, self.tiers[tier].max_length) + 1
            if function.coefficients is not None:
                table = function(np.arange(size))
            else:
                table = np.full(size, np.nan)
                known = {n: macs for n, macs in (function.counts or {}).items() if n < size}
                table[list(known)] = list(known.values())
            self._tables[key] = table
        unknown = np.unique(lengths[np.isnan(table[lengths])])
        if len(unknown):
            owner = self.tiers[tier]
            whole = kind == "alone" and isinstance(owner, MultiExitTier)
            path = owner.reference_path() if whole and isinstance(owner, MultiExitTier) else owner.path(index)
            fresh = path_cost(owner, path, unknown.tolist())
            table[unknown] = fresh(unknown)
            for length, macs in (fresh.counts or {}).items():  # a whole window at once
                if length < len(table):
                    table[length] = macs
        return table
