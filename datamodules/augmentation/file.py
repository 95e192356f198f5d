"""The file of new texts: written as they come, and read as a stream beside the rows that they were made of.

Parquet with the columns ``text``, for pairs ``text_b``, ``label`` (that of the row, a name or a number) and ``source``
(the row's sample id). Its schema says which rows and labels it was made of. The labels serve a reader of the file; when
a student is fitted, the teacher's answers stand in their place.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.augmentation.generation import Generated
from datamodules.augmentation.methods import MASK
from datamodules.labels import spelling
from datamodules.rows import Rows

KEY = b"dial.augmentation"
ROW_GROUP = 50_000
FIRST_ID = 2**40
"""Sample id of the first new row: beyond those of any file of rows."""


def about_rows(rows: Rows, label_names: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """What a file says of itself.

    Args:
        rows: of the training role, which new texts are made of.
        label_names: of the classes; empty for regression.
        settings: of the method, seed included.
    """
    head = {"schema": 1, "rows": rows.fingerprint, "count": len(rows), "label_names": list(label_names)}
    return head | {"pair": rows.text_b is not None, "settings": settings}


def write(path: Path, generated: Iterable[Generated], rows: Rows, about: dict[str, Any]) -> int:
    """Write new rows as they come; returns their number. No more than a row group is held.

    Args:
        path: the file.
        generated: in the order of the rows.
        rows: they were made of.
        about: see :func:`about_rows`.
    """
    names = about["label_names"]
    columns = ["text", "text_b"] if about["pair"] else ["text"]
    fields = [pa.field(name, pa.string(), nullable=False) for name in columns]
    fields += [pa.field("label", pa.string() if names else pa.float32()), pa.field("source", pa.int64())]
    schema = pa.schema(fields, metadata={KEY: json.dumps(about)})
    place = {int(i): row for row, i in enumerate(rows.sample_id)}
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for units, ids in _row_groups(generated):
            labels = rows.label[[place[i] for i in ids]]
            values = [names[label] if label >= 0 else None for label in labels] if names else labels
            texts = [pa.array([unit[side] for unit in units], pa.string()) for side in range(len(columns))]
            writer.write_table(pa.Table.from_arrays([*texts, pa.array(values), pa.array(ids)], schema=schema))
            count += len(ids)
    return count


def _row_groups(generated: Iterable[Generated]) -> Iterator[tuple[list[tuple[str, ...]], list[int]]]:
    """Texts and ids in groups that are written at once; the texts of one row stay together."""
    units: list[tuple[str, ...]] = []
    ids: list[int] = []
    for row in generated:
        units += row.units
        ids += [row.sample_id] * len(row.units)
        if len(ids) >= ROW_GROUP:
            yield units, ids
            units, ids = [], []
    if ids:
        yield units, ids


@dataclass(frozen=True)
class AugmentationFile:
    """A file of new texts.

    Args:
        path: the file.
        argument: how the user calls it.

    Raises:
        ValueError: it is missing, or was not written by `dial augment`.
    """

    path: Path
    argument: str = "augmentation"

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise ValueError(
                f"`{self.argument}` must be a file that exists, but got {str(self.path)!r}. Check the path."
            )
        try:
            metadata = pq.read_schema(self.path).metadata or {}
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"`{self.argument}` must be a parquet file, but {self.path} is none: {error}.") from error
        if KEY not in metadata:
            raise ValueError(f"`{self.argument}` must be a file that `dial augment` wrote, but {self.path} is none.")

    @cached_property
    def about(self) -> dict[str, Any]:
        """See :func:`about_rows`."""
        return dict(json.loads(pq.read_schema(self.path).metadata[KEY]))

    def check(self, rows: Rows, label_names: Sequence[str]) -> None:
        """Refuse a file of other labels, or that was made of other rows: some may be validated on.

        Raises:
            ValueError: names the first difference and what to do.
        """
        own, theirs = list(label_names), self.about["label_names"]
        spell = spelling(own)
        if {spell(name) for name in own} != {spell(name) for name in theirs}:
            shown = [", ".join(names) or "none, as of a regression" for names in (own, theirs)]
            raise ValueError(
                f"`{self.argument}` must be of the labels {shown[0]}, but {self.path} was made of rows with "
                f"{shown[1]}. Name the file of this task."
            )
        if self.about["rows"] != rows.fingerprint:
            raise ValueError(
                f"`{self.argument}` must be made of these {len(rows)} training rows, but {self.path} was made of "
                f"{self.about['count']} others. Run `dial augment` with the same `--data` arguments."
            )

    def beside(self, rows: Rows) -> Rows:
        """Rows, and behind them the new ones, whose texts stay on the disk and whose labels are hidden."""
        source = pq.read_table(self.path, columns=["source"]).column("source").to_numpy()
        place = np.searchsorted(rows.sample_id, source)
        hidden = np.full(len(source), -1 if rows.label.dtype.kind == "i" else np.nan, rows.label.dtype)
        text = Joined(rows.text, StoredTexts(self.path, "text", len(source)))
        stored = None if rows.text_b is None else Joined(rows.text_b, StoredTexts(self.path, "text_b", len(source)))
        return replace(
            rows,
            text=text,
            text_b=stored,
            label=np.concatenate([rows.label, hidden]),
            sample_id=np.concatenate([rows.sample_id, FIRST_ID + np.arange(len(source), dtype=np.int64)]),
            group=None if rows.group is None else np.concatenate([rows.group, rows.group[place]]),
            block=None if rows.block is None else np.concatenate([rows.block, rows.block[place]]),
        )


def with_mask(rows: Rows, mask: str) -> Rows:
    """Rows whose masked words are spelt as a tokenizer knows them."""
    if mask == MASK:
        return rows

    def spelt(text: str) -> str:
        return text.replace(MASK, mask)

    second = None if rows.text_b is None else Mapped(rows.text_b, spelt)
    return replace(rows, text=Mapped(rows.text, spelt), text_b=second)


class _Streamed(Sequence[str], ABC):
    """Texts that are read from their beginning; single ones cost more."""

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        return self._item(range(len(self))[index])

    @abstractmethod
    def _item(self, index: int) -> str:
        """The text at a place."""


class StoredTexts(_Streamed):
    """A column of a parquet file.

    Args:
        path: the file.
        column: holds texts.
        size: rows of the file.
    """

    def __init__(self, path: Path, column: str, size: int) -> None:
        self.path, self.column, self.size = path, column, size
        self._ends: np.ndarray | None = None
        self._group: tuple[int, list[str]] | None = None

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[str]:
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(4096, columns=[self.column]):
                yield from batch.column(0).to_pylist()

    def _item(self, index: int) -> str:
        """One text, out of the row group that was read last or that is read now."""
        if self._ends is None:  # behind each group of rows
            about = pq.read_metadata(self.path)
            self._ends = np.cumsum([about.row_group(i).num_rows for i in range(about.num_row_groups)])
        group = int(np.searchsorted(self._ends, index, side="right"))
        if self._group is None or self._group[0] != group:
            with pq.ParquetFile(self.path) as file:
                self._group = group, file.read_row_group(group, columns=[self.column]).column(0).to_pylist()
        texts = self._group[1]
        return texts[index - int(self._ends[group]) + len(texts)]


class Joined(_Streamed):
    """One sequence behind another one."""

    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __iter__(self) -> Iterator[str]:
        yield from self.first
        yield from self.second

    def _item(self, index: int) -> str:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


class Mapped(_Streamed):
    """A sequence with a function applied to each item as it is read."""

    def __init__(self, items: Sequence[str], function: Callable[[str], str]) -> None:
        self.items, self.function = items, function

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[str]:
        return map(self.function, self.items)

    def _item(self, index: int) -> str:
        return self.function(self.items[index])
