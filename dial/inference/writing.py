"""Rows that stay at a tier that writes, until a whole batch of them can be written.

A decoder takes nearly as long for half a batch as for a whole one, and of a batch that was decided only some rows stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dial.inference.queues import Row
from dial.tiers.contract import TierContract, Written
from dial.tradeoff.rule import Router

Settled = tuple[list[Row], Router, Written | None]


@dataclass
class Decided:
    """A batch that was decided.

    Attributes:
        rows: all of it.
        router: of them.
        missing: rows that stay and are not written yet.
        parts: what was written for those that stay, in their order.
    """

    rows: list[Row]
    router: Router
    missing: int
    parts: list[Written] = field(default_factory=list)

    @property
    def written(self) -> Written | None:
        """For the rows that stay."""
        return joined(self.parts) if self.parts else None


def joined(parts: list[Written]) -> Written:
    """Texts of several parts, one after another."""
    texts = [text for part in parts for text in part.texts]
    return Written(
        texts, torch.cat([part.generated for part in parts]), torch.cat([part.limited for part in parts]), {}
    )


class WritingQueue:
    """Batches of one tier that were decided, in order, with the states of the rows that are to be written.

    Args:
        tier: that writes.
        write: writes the rows of some states together, or in parts.
    """

    def __init__(self, tier: TierContract, write: Callable[[Any, int], list[Written]]) -> None:
        self.tier, self.write = tier, write
        self._batches: list[Decided] = []
        self._waiting: list[tuple[Decided, Any, int]] = []  # batch, states, and how many rows they are of

    def add(self, rows: list[Row], router: Router, state: Any) -> None:
        """A batch that was decided, and what its encoder gave."""
        stayed = np.flatnonzero(~router.deferred)
        batch = Decided(rows, router, len(stayed))
        self._batches.append(batch)
        if len(stayed):
            self._waiting.append((batch, self.tier.take_states(state, torch.from_numpy(stayed)), len(stayed)))

    def settled(self, size: int, rest: bool = False) -> Iterator[Settled]:
        """Write whole batches of ``size`` rows, or what is left; give decided batches of which all rows are written."""
        while sum(count for _, _, count in self._waiting) >= (1 if rest else size):
            self._write(size)
        while self._batches and not self._batches[0].missing:
            batch = self._batches.pop(0)
            yield batch.rows, batch.router, batch.written

    def _write(self, size: int) -> None:
        """Write the first ``size`` rows that wait."""
        taken: list[tuple[Decided, Any, int]] = []
        room = size
        while self._waiting and room:
            batch, state, count = self._waiting.pop(0)
            if count > room:
                rest = self.tier.take_states(state, torch.arange(room, count))
                self._waiting.insert(0, (batch, rest, count - room))
                state, count = self.tier.take_states(state, torch.arange(room)), room
            taken.append((batch, state, count))
            room -= count
        written = joined(self.write(self.tier.join_states([state for _, state, _ in taken]), size - room))
        start = 0
        for batch, _, count in taken:
            part = slice(start, start + count)
            batch.parts.append(Written(written.texts[part], written.generated[part], written.limited[part], {}))
            batch.missing -= count
            start += count
