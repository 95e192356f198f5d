"""Where rows wait: a queue before each tier, and a place where answers wait for the rows before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dial.tiers.tokens import Tokens, Unit

POOL = 32  # batches that wait for each other so that rows of similar length meet
Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class Row:
    """A row under way.

    Attributes:
        position: in the order in which rows came.
        id: what the row is called.
        unit: the text or pair.
        tokens: by encoding key; for a further tier only once it needs the row.
        spent: MACs of the tiers passed.
        reference: MACs of the reference alone.
        previous: the latest prediction, for patience; NaN before the first.
        agreements: how many stages in a row have repeated it.
    """

    position: int
    id: int
    unit: Unit
    tokens: dict[str, Tokens] = field(default_factory=dict)
    spent: float = 0.0
    reference: float = 0.0
    previous: float = float("nan")
    agreements: float = 0.0


class TierQueue:
    """Rows that wait for one tier, first in first out.

    Args:
        batch_size: rows that the tier computes at once; may shrink.
        pool: rows that are taken together, so that they can be grouped by length; at least a batch.
    """

    def __init__(self, batch_size: int, pool: int) -> None:
        self.batch_size, self.pool = batch_size, max(pool, batch_size)
        self._rows: deque[Row] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Sequence[Row]) -> None:
        """More rows wait."""
        self._rows.extend(rows)

    @property
    def ready(self) -> bool:
        """Whether enough rows wait."""
        return len(self._rows) >= self.pool

    @property
    def oldest(self) -> float:
        """Smallest position of a row that waits; infinite if none does."""
        return min((row.position for row in self._rows), default=float("inf"))

    def take(self, oldest_first: bool = False, rest: bool = False) -> list[Row]:
        """At most a pool of rows, in whole batches as far as there are that many; with the last pool what is left.

        Args:
            oldest_first: take those of smallest position, as they hold up all answers behind them.
            rest: no more rows will come, so that there is nothing that the last ones could wait for.
        """
        if oldest_first:
            self._rows = deque(sorted(self._rows, key=lambda row: row.position))
        count = min(len(self._rows), self.pool)
        if rest and len(self._rows) < self.pool + self.batch_size:
            count = len(self._rows)
        elif count > self.batch_size:
            count -= count % self.batch_size
        return [self._rows.popleft() for _ in range(count)]


class InOrder(Generic[Item]):
    """Gives items in the order of their positions, whatever the order in which they come.

    Example:
        >>> order = InOrder()
        >>> order.put(1, "b"); list(order.ready())
        []
        >>> order.put(0, "a"); list(order.ready())
        ['a', 'b']
    """

    def __init__(self) -> None:
        self.given = 0
        self._waiting: dict[int, Item] = {}

    def put(self, position: int, item: Item) -> None:
        """An item is there."""
        self._waiting[position] = item

    def ready(self) -> Iterator[Item]:
        """Items up to the first that is missing."""
        while self.given in self._waiting:
            self.given += 1
            yield self._waiting.pop(self.given - 1)
