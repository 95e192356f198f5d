"""Columns of a parquet file by name, with errors that name what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dial.parquet_checks import whole_parquet

TIER_COLUMNS = {"length": "lengths", "padded": "padded", "written": "written", "cut_off": "cut_off"}
"""What columns of a tier are called, and where a table has them."""


class Columns:
    """Columns of a file by name, read one by one, with errors that name what is missing.

    Args:
        path: of a parquet file.

    Raises:
        ValueError: it is none, or is damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with whole_parquet(path, "table"):
            self.file = pq.ParquetFile(path)  # the file alone, whatever its folders are called
        self.schema, self.rows = self.file.schema_arrow, self.file.metadata.num_rows
        self.names = self.schema.names

    def __call__(self, name: str) -> np.ndarray:
        """Values ``(N,)`` of a column, or ``(N, C)`` of one of lists."""
        column = self._whole(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if _is_list(column.type):
            return self._lists(name, column)
        return column.to_numpy(zero_copy_only=False)

    def texts(self, name: str) -> np.ndarray:
        """A column in which few texts are repeated ``(N,)``; where all are one, it is held once."""
        column = self._whole(name)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.dictionary_encode()
        if not pa.types.is_dictionary(column.type) or not len(column):
            return self(name)
        distinct = np.array(column.dictionary.to_pylist(), dtype=str)
        if len(distinct) == 1:
            return np.broadcast_to(distinct, len(column))
        return distinct[column.indices.to_numpy(zero_copy_only=False)]

    def _whole(self, name: str) -> Any:
        """A column in one piece, in which nothing is missing."""
        if name not in self.names:
            raise ValueError(
                f"`table` must have a column {name!r}, but {self.path!r} has {', '.join(self.names)}. Add the column."
            )
        column = self._read(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # no rows
            column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
        if column.null_count:
            raise ValueError(
                f"`table` must have no missing values, but column {name!r} of {self.path!r} has {column.null_count}. "
                "Fill in or drop these rows."
            )
        return column

    def _read(self, name: str) -> pa.ChunkedArray:
        with whole_parquet(self.path, "table"):
            return self.file.read(columns=[name]).column(name)

    def _lists(self, name: str, column: Any) -> np.ndarray:
        """A column of lists of one size as a matrix, NaN where it has none."""
        flat = column.flatten()
        sizes = [column.type.list_size] if pa.types.is_fixed_size_list(column.type) else _sizes(column)
        if len(sizes) > 1:
            raise ValueError(
                f"`table` must have as many logits in every row, but column {name!r} of {self.path!r} has rows of "
                f"{sizes}. Give one per class."
            )
        # Some writers store NaN as missing; it comes back as NaN, and the table names its tier and example.
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), sizes[0] if sizes else 0)

    def per_stage(self, pattern: str, stages: Sequence[str]) -> np.ndarray:
        """Return ``(N, S)``, or ``(N, S, C)`` for lists."""
        columns = [self(pattern.format(stage)) for stage in stages]
        widths = {column.shape[1:] for column in columns}
        if len(widths) > 1:
            raise ValueError(
                f"`table` must have as many logits at every stage, but {pattern.format('<stage>')!r} of {self.path!r} "
                f"has {sorted(width[0] if width else 1 for width in widths)}. Check the number of labels of every tier."
            )
        return np.stack(columns, axis=1)

    def by_tier(self, kind: str, tiers: Sequence[str]) -> dict[str, np.ndarray]:
        """Return ``(N,)`` for each tier that has a column ``<kind>_<tier>``."""
        return {tier: self(f"{kind}_{tier}") for tier in tiers if f"{kind}_{tier}" in self.names}

    def common(self, labelled: bool = True) -> dict[str, Any]:
        """What every table has of its rows; without labels, as for free text, positions stand in for them."""
        group = self.texts("group") if "group" in self.names else None
        shared = {"split": self.texts("split"), "sample_id": self("sample_id")}
        shared["label"] = self("label") if labelled else np.arange(self.rows)
        return shared | {"group": group, "references": self.references() if "references" in self.names else None}

    def references(self) -> list[Any]:
        """One or several texts for each row."""
        values: list[Any] = self._read("references").to_pylist()
        return values


def declared_ranges(ranges: Mapping[str, Sequence[float]] | None) -> dict[str, Any]:
    """Ranges of statistics as a table's settings hold them; nothing where none is declared."""
    return {"ranges": {name: [float(low), float(high)] for name, (low, high) in ranges.items()}} if ranges else {}


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _sizes(column: Any) -> list[int]:
    return sorted(column.value_lengths().unique().to_pylist())
