"""Costs in measured milliseconds: a table by tier, exit, batch size and length, and what it says of a stage table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from dial.files import readable, write_json
from dial.stages.stage import Stage
from dial.stages.table import StageTable

Float = NDArray[np.float64]
SCHEMA = 1
UNIT = "milliseconds per row"


@dataclass(frozen=True)
class TierTimes:
    """Milliseconds per row of one tier.

    Attributes:
        fingerprint: of the tier, so that times of other weights or views are not taken for its own.
        lengths: ``(L,)`` tokens at which was measured, ascending.
        milliseconds: by batch size ``(E, L)``: until the answer of each exit is there.
    """

    fingerprint: str
    lengths: tuple[int, ...]
    milliseconds: Mapping[int, Float]

    def __post_init__(self) -> None:
        lengths = list(self.lengths)
        if not lengths or lengths != sorted(set(lengths)) or lengths[0] < 1:
            raise ValueError(f"`lengths` must be one or more ascending numbers of tokens, but got {lengths}.")
        if not self.milliseconds:
            raise ValueError("`milliseconds` must hold at least one batch size, but got none.")
        for size, values in self.milliseconds.items():
            if values.ndim != 2 or values.shape[1] != len(lengths) or not (np.isfinite(values) & (values > 0)).all():
                raise ValueError(
                    f"`milliseconds` of batch size {size} must be positive numbers (exits, {len(lengths)}), "
                    f"but got shape {values.shape}."
                )

    def at(self, exit_index: int, lengths: ArrayLike, batch_size: int) -> Float:
        """Milliseconds per row until the answer of an exit, at lengths of any shape.

        Times never fall with length (isotonic fit: a shorter row that seemed slower was disturbed), are straight
        between measured lengths, level below the shortest, and go on with the last slope beyond the longest.

        Raises:
            ValueError: a batch size that was not measured.
        """
        if batch_size not in self.milliseconds:
            sizes = ", ".join(map(str, self.milliseconds))
            raise ValueError(f"`batch_sizes` must be among those that were measured ({sizes}), but got {batch_size}.")
        known = np.asarray(self.lengths, dtype=np.float64)
        values = isotonic_regression(self.milliseconds[batch_size][exit_index]).x
        wanted = np.asarray(lengths, dtype=np.float64)
        found: Float = np.interp(wanted, known, values)
        if len(known) > 1:
            # The slope of the longer half: two neighbours alone would carry their noise far away.
            middle = (len(known) - 1) // 2
            slope = (values[-1] - values[middle]) / (known[-1] - known[middle])
            found = found + slope * np.maximum(wanted - known[-1], 0)
        return found

    def in_batch_of(self, exit_index: int, lengths: ArrayLike, rows: int) -> Float:
        """As :meth:`at`, in a batch that is smaller than those at work, as the last one may be.

        What the whole batch takes is straight between measured sizes; outside of them a row takes what it takes at the
        nearest size.
        """
        sizes = sorted(self.milliseconds)
        below = max((size for size in sizes if size <= rows), default=sizes[0])
        above = min((size for size in sizes if size >= rows), default=sizes[-1])
        low = self.at(exit_index, lengths, below)
        if below == above or rows < below:
            return low
        high = self.at(exit_index, lengths, above)
        found: Float = (below * low + (rows - below) / (above - below) * (above * high - below * low)) / rows
        return found


@dataclass(frozen=True)
class TimeTable:
    """Measured times of a staged model's tiers on one machine.

    Attributes:
        tiers: by name.
        batch_sizes: by tier the size that is meant where none is named: the best.
        machine: processor, threads, versions.
    """

    tiers: Mapping[str, TierTimes]
    batch_sizes: Mapping[str, int]
    machine: Mapping[str, Any] = field(default_factory=dict)

    def stage_times(
        self,
        stages: Sequence[Stage],
        lengths: Mapping[str, ArrayLike],
        batch_sizes: Mapping[str, int] | int | None = None,
    ) -> Float:
        """Milliseconds per row ``(N, S)`` of stopping at each stage, all earlier tiers included.

        Args:
            stages: in order of execution.
            lengths: per tier the tokens of each row ``(N,)``, padding included where there is any.
            batch_sizes: by tier, or one for all; None: the best.

        Raises:
            ValueError: a tier or batch size without times.
        """
        columns = accumulated(stages, lambda tier, index: self.row_times(tier, index, lengths[tier], batch_sizes))
        return np.stack(columns, axis=1)

    def row_times(
        self, tier: str, exit_index: int, lengths: ArrayLike, batch_sizes: Mapping[str, int] | int | None = None
    ) -> Float:
        """Milliseconds per row of one tier until an exit's answer; see :meth:`stage_times`."""
        if tier not in self.tiers:
            raise ValueError(f"`times` must be of every tier, but they are of {', '.join(self.tiers)}, not of {tier}.")
        return self.tiers[tier].at(exit_index, lengths, self._size(tier, batch_sizes))

    def _size(self, tier: str, batch_sizes: Mapping[str, int] | int | None) -> int:
        if isinstance(batch_sizes, int):
            return batch_sizes
        return (self.batch_sizes if batch_sizes is None else batch_sizes)[tier]

    def timed(self, table: StageTable, batch_sizes: Mapping[str, int] | int | None = None) -> StageTable:
        """The table with milliseconds in place of MACs in every cost column.

        Rows count at the length that they are padded to when the rows of their split are grouped by length at the batch
        size of the tier, as the executor does.

        Args:
            table: with the lengths of its rows.
            batch_sizes: by tier, or one for all; None: the best.

        Raises:
            ValueError: the table has no lengths, or its tiers are not those that were measured.
        """
        tiers = list(dict.fromkeys(stage.tier for stage in table.stages))
        if missing := [tier for tier in tiers if tier not in table.lengths]:
            raise ValueError(f"`table` must hold the column length_{missing[0]} to be timed, but it does not.")
        self.check(table)
        sizes = {tier: self.batch_sizes[tier] for tier in tiers} if batch_sizes is None else batch_sizes
        padded = {tier: np.zeros(len(table)) for tier in tiers}
        for split in table.splits:
            rows = table.split == split
            for tier in tiers:
                size = sizes if isinstance(sizes, int) else sizes[tier]
                padded[tier][rows] = grouped_lengths(table.lengths[tier][rows], size)
        times = self.stage_times(table.stages, padded, sizes)
        wanted = table.settings.get("reference")
        reference = wanted if wanted in tiers else tiers[-1]
        last = max(stage.index for stage in table.stages if stage.tier == reference)
        alone = self.row_times(reference, last, padded[reference], sizes)
        # A multi-exit model's MACs refer to its encoder unpruned and without exits, which was not measured.
        settings = {key: value for key, value in table.settings.items() if key != "reference_without_exits"}
        settings |= {"unit": UNIT, "machine": dict(self.machine), "batch_sizes": sizes}
        return dataclasses.replace(table, macs=times, decide_macs=times, macs_reference=alone, settings=settings)

    def mean_time(
        self,
        stages: Sequence[Stage],
        lengths: Mapping[str, ArrayLike],
        taken: NDArray[np.int64],
        batch_sizes: Mapping[str, int] | int | None = None,
        left_out: Sequence[str] = (),
    ) -> float:
        """Mean milliseconds per row where it is known at which stage each stops.

        In each tier only the rows that get there are grouped by length; the last batch may be a small one.

        Args:
            stages: in order of execution.
            lengths: per tier the tokens of each row ``(N,)``.
            taken: ``(N,)`` the stage that each row stops at.
            batch_sizes: as for :meth:`stage_times`.
            left_out: tiers that do not run.
        """
        total = 0.0
        for tier in dict.fromkeys(stage.tier for stage in stages if stage.tier not in left_out):
            places = [place for place, stage in enumerate(stages) if stage.tier == tier]
            here = np.flatnonzero(taken >= places[0])
            size = self._size(tier, batch_sizes)
            tokens = np.asarray(lengths[tier])[here]
            padded, few = grouped_lengths(tokens, size), len(here) % size
            last = np.zeros(len(here), dtype=bool)
            last[np.argsort(tokens, kind="stable")[len(here) - few :]] = True
            left_at = np.minimum(taken[here], places[-1])
            for place in places:
                index, at_place = stages[place].index, left_at == place
                total += self.row_times(tier, index, padded[at_place & ~last], size).sum()
                total += self.tiers[tier].in_batch_of(index, padded[at_place & last], few).sum() if few else 0.0
        return total / len(taken)

    def check(self, table: StageTable, argument: str = "times") -> None:
        """Refuse times of other tiers than the table's.

        Raises:
            ValueError: a tier that is missing, or has another fingerprint; names ``argument``.
        """
        known = table.settings.get("tiers", {})
        for tier in dict.fromkeys(stage.tier for stage in table.stages):
            if tier not in self.tiers:
                raise ValueError(
                    f"`{argument}` must be of the table's tiers, but it is of {', '.join(self.tiers)}, not of {tier}."
                )
            wanted = known.get(tier, {}).get("fingerprint")
            if wanted is not None and wanted != self.tiers[tier].fingerprint:
                raise ValueError(
                    f"`{argument}` must be of the table's tiers, but {tier} has the fingerprint {wanted} there and "
                    f"{self.tiers[tier].fingerprint} in the times; measure again (`dial test --study.rows 500`)."
                )

    def to_json(self) -> dict[str, Any]:
        """A value that ``json`` writes and :meth:`from_json` reads back unchanged."""
        tiers = {
            name: {
                "fingerprint": times.fingerprint,
                "lengths": list(times.lengths),
                "milliseconds": {str(size): values.tolist() for size, values in times.milliseconds.items()},
            }
            for name, times in self.tiers.items()
        }
        sizes, machine = dict(self.batch_sizes), dict(self.machine)
        return {"schema": SCHEMA, "unit": UNIT, "machine": machine, "batch_sizes": sizes, "tiers": tiers}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TimeTable:
        """Read what :meth:`to_json` gave.

        Raises:
            ValueError: another schema.
        """
        if value.get("schema") != SCHEMA or value.get("unit") != UNIT:
            raise ValueError(f"`times` must be a table of {UNIT} with schema {SCHEMA}, as the study writes it.")
        tiers = {
            name: TierTimes(
                times["fingerprint"],
                tuple(times["lengths"]),
                {int(size): np.asarray(values) for size, values in times["milliseconds"].items()},
            )
            for name, times in value["tiers"].items()
        }
        return cls(tiers, {name: int(size) for name, size in value["batch_sizes"].items()}, value["machine"])

    def save(self, path: str | Path) -> None:
        """Write ``times.json``, whole or not at all."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> TimeTable:
        """Read a saved ``times.json``.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        try:
            with readable(path, "times"):
                return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`times` must be a file that the study left, but {path} cannot be read: {error}"
            ) from None


def accumulated(stages: Sequence[Stage], own: Callable[[str, int], Float]) -> list[Float]:
    """Times of stopping at each stage: of all earlier tiers to their last stage, and of its own tier to its exit.

    Args:
        stages: in order of execution.
        own: times of a tier to an exit.

    Example:
        >>> stages = [Stage("a.one", "a", 0), Stage("a.two", "a", 1), Stage("b", "b", 0)]
        >>> accumulated(stages, lambda tier, index: np.array([10.0 if tier == "b" else 1 + index]))
        [array([1.]), array([2.]), array([12.])]
    """
    columns: list[Float] = []
    spent: Float | float = 0.0
    for position, stage in enumerate(stages):
        if position and stage.tier != stages[position - 1].tier:
            spent = columns[-1]
        columns.append(spent + own(stage.tier, stage.index))
    return columns


def grouped_lengths(lengths: ArrayLike, batch_size: int) -> NDArray[np.int64]:
    """Tokens that each row is padded to when all rows are sorted by length and cut into batches, ``(N,)``.

    Example:
        >>> grouped_lengths([7, 3, 9, 4], 2).tolist()
        [9, 4, 9, 4]
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(tokens, kind="stable")
    padded = np.empty_like(tokens)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        padded[rows] = tokens[rows].max()
    return padded
