"""Some rows of a table's columns, without copies where none are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np


class Borrowed(Mapping[str, np.ndarray]):
    """Some rows of columns that lie elsewhere, taken when they are asked for; the last one is held.

    Args:
        columns: ``(N, ...)`` by name.
        index: ``(M,)`` rows.

    Example:
        >>> Borrowed({"softmax": np.array([0.5, 0.7, 0.9])}, np.array([2, 0]))["softmax"]
        array([0.9, 0.5])
    """

    def __init__(self, columns: Mapping[str, np.ndarray], index: np.ndarray) -> None:
        self._columns, self._index = columns, index
        self._last: tuple[str, np.ndarray] | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        if self._last is None or self._last[0] != name:
            self._last = name, self._columns[name][self._index]
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def is_constant(values: np.ndarray) -> bool:
    """Whether a column ``(N,)`` is one value that is held once, as the name of a table's only split is.

    Example:
        >>> is_constant(np.broadcast_to(np.array("test"), 3)), is_constant(np.full(3, "test"))
        (True, False)
    """
    return values.strides == (0,)


def indices_of(rows: np.ndarray) -> np.ndarray:
    """Positions ``(M,)`` of a mask ``(N,)``, or the given ones."""
    return np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.intp)


def rows_of(column: np.ndarray, index: np.ndarray | slice) -> np.ndarray:
    """Some rows ``(M, ...)`` of a column ``(N, ...)``; one that is held once stays so."""
    if isinstance(index, np.ndarray) and is_constant(column):
        return np.broadcast_to(column[:1], len(index))
    return column[index]
