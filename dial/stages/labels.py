"""Labels and predictions of a foreign table as numbers, however its file has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datamodules.labels import KINDS, Classes, number_of


def as_numbers(values: np.ndarray, label_names: Sequence[str] | None, column: str, path: str) -> np.ndarray:
    """Classes by name where they have names, else numbers.

    Args:
        values: ``(N,)`` texts, decimals, truth values or numbers.
        label_names: of the classes in the order of the logits; empty for regression, None where nobody said.
        column: where they come from.
        path: of the file.

    Returns:
        ``(N,)`` int64, or float64 where one is no whole number. Classes that are numbers and have no names that are
        stay as they are.

    Raises:
        ValueError: a value that is no number where there are no names, or that none of the names is.

    Example:
        >>> as_numbers(np.array(["pos", "Neg"], object), ["neg", "pos"], "label", "t.parquet").tolist()
        [1, 0]
    """
    numbered = any(number_of(name) is not None for name in label_names or ())
    if values.ndim == 1 and values.dtype.kind in "iufb" and not numbered:
        return values
    distinct, places = _distinct(values)
    find: Callable[[object], Any] = Classes(label_names) if label_names else number_of
    numbers = []
    for value in distinct:
        number = find(value)
        if number is None:
            allowed, remedy = "texts or numbers", "Correct the column."
            if isinstance(value, KINDS):
                allowed = f"one of {', '.join(label_names)}" if label_names else "numbers, or have `label_names`"
                remedy = remedy if label_names else "Give `--label-names` in the order of the logits."
            shown = repr(value) if isinstance(value, str) else str(value)
            raise ValueError(f"`table` must have {allowed} as {column!r}, but {path!r} has {shown}. {remedy}")
        numbers.append(number)
    whole = all(abs(number) < 2**53 and number == int(number) for number in numbers)
    return np.array([int(n) if whole else float(n) for n in numbers], np.int64 if whole else np.float64)[places]


def _distinct(values: np.ndarray) -> tuple[list[object], np.ndarray]:
    """Values that differ, and for each row which of them it has."""
    if values.ndim == 1 and values.dtype.kind in "iufb":
        numbers, inverse = np.unique(values, return_inverse=True)
        return list(numbers), inverse
    known: dict[str, int] = {}
    distinct: list[object] = []
    places = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        place = known.setdefault(repr(value), len(distinct))
        if place == len(distinct):
            distinct.append(value)
        places[row] = place
    return distinct, places
