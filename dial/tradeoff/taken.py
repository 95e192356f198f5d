"""What a decision does with every row: which stage answers it, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dial.stages.table import StageTable
from dial.tradeoff.rules import tiers_left_out


@dataclass(frozen=True, eq=False)
class Taken:
    """The stage of every row of a table, or the chances of all stages where a coin decides.

    Attributes:
        table: the rows.
        stages: ``(N,)`` the stage that answers; None where a coin decides.
        chances: ``(N, S)`` of each stage, where a coin decides.
        left_out: sets of tiers that do not run.
        which: ``(N,)`` position in ``left_out`` of each row's set; None: the first for all.
    """

    table: StageTable = field(repr=False)
    stages: np.ndarray | None = None
    chances: np.ndarray | None = None
    left_out: tuple[tuple[str, ...], ...] = ((),)
    which: np.ndarray | None = None

    @classmethod
    def at(cls, table: StageTable, stages: np.ndarray, left_out: Sequence[str] = ()) -> Taken:
        """Every row stops at its stage ``(N,)``, and some tiers do not run."""
        return cls(table, stages=np.asarray(stages, dtype=np.int64), left_out=(tuple(left_out),))

    @classmethod
    def drawn(cls, table: StageTable, chances: np.ndarray, left_out: Sequence[str] = ()) -> Taken:
        """Every row stops at each stage with the same chances ``(S,)``."""
        whole = np.broadcast_to(chances, table.macs.shape)
        return cls(table, chances=whole, left_out=(tuple(left_out),))

    @classmethod
    def all_at(cls, table: StageTable, stage: int) -> Taken:
        """Every row stops at one stage, after all earlier ones."""
        return cls.at(table, np.full(len(table), stage))

    @classmethod
    def joined(cls, table: StageTable, parts: Sequence[tuple[np.ndarray, Taken]]) -> Taken:
        """Decisions over parts of the rows as one: masks ``(N,)`` that cover each row once, and what is done there."""
        which, columns = np.zeros(len(table), dtype=np.int64), {}
        for position, (mask, _) in enumerate(parts):
            which[mask] = position
        for name in ("stages", "chances"):
            if getattr(parts[0][1], name) is not None:
                first = getattr(parts[0][1], name)
                columns[name] = np.empty((len(table), *first.shape[1:]), dtype=first.dtype)
                for mask, taken in parts:
                    columns[name][mask] = getattr(taken, name)
        return cls(table, **columns, left_out=tuple(taken.left_out[0] for _, taken in parts), which=which)

    def take(self, rows: np.ndarray) -> Taken:
        """The same for some rows, given by a mask ``(N,)`` or by indices."""
        kept = (None if values is None else values[rows] for values in (self.stages, self.chances, self.which))
        stages, chances, which = kept
        return Taken(self.table.take(rows), stages, chances, self.left_out, which)

    @cached_property
    def macs(self) -> np.ndarray:
        """Cost of every row ``(N,)``, without the tiers that do not run; its expectation where a coin decides."""
        return self.charged(self.table)

    def charged(self, table: StageTable) -> np.ndarray:
        """Cost of every row ``(N,)`` by the costs of another table of the same rows."""
        return self.spent(table.macs_without)

    def spent(self, costs_without: Callable[[tuple[str, ...]], np.ndarray]) -> np.ndarray:
        """Cost of every row ``(N, ...)``, from the costs ``(N, S, ...)`` of stopping where some tiers do not run."""
        costs = [self.pick(costs_without(tiers)) for tiers in self.left_out]
        if self.which is None:
            return costs[0]
        spent: np.ndarray = np.stack(costs)[self.which, np.arange(len(self.which))]
        return spent

    def pick(self, values: np.ndarray) -> np.ndarray:
        """What ``values (N, S, ...)`` come to for every row, ``(N, ...)``."""
        if self.stages is not None:
            return values[np.arange(len(self.stages)), self.stages]
        assert self.chances is not None
        picked: np.ndarray = np.einsum("ns,ns...->n...", self.chances, values)
        return picked

    @property
    def shares(self) -> np.ndarray:
        """Share of rows that each stage answers, ``(S,)``."""
        if self.stages is not None:
            return np.bincount(self.stages, minlength=len(self.table.stages)) / len(self.stages)
        assert self.chances is not None
        shares: np.ndarray = self.chances.mean(axis=0)
        return shares


def super_alone(table: StageTable) -> Taken:
    """The last stage answers every row, and no earlier tier runs."""
    tiers = [stage.tier for stage in table.stages]
    stages = np.full(len(table), len(tiers) - 1)
    return Taken.at(table, stages, tiers_left_out(tiers, np.full(len(tiers) - 1, np.inf)))
