"""Rows of one role as they were read: texts, labels and where each came from."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Rows:
    """The decision units of one role.

    Attributes:
        text: N first texts.
        text_b: N second texts, or ``None`` where a unit is one text.
        label: ``(N,)`` int64 class indices, or float32 values for regression.
        sample_id: ``(N,)`` int64 row index in the source file.
    """

    text: list[str]
    text_b: list[str] | None
    label: np.ndarray
    sample_id: np.ndarray

    def __len__(self) -> int:
        return len(self.text)

    def units(self) -> Iterator[tuple[str, ...]]:
        """Yield each unit as ``(text,)`` or ``(text, text_b)``."""
        if self.text_b is None:
            return ((text,) for text in self.text)
        return zip(self.text, self.text_b, strict=True)

    def take(self, indices: np.ndarray) -> "Rows":
        """Rows at ``indices (M,)``, in that order."""
        second = None if self.text_b is None else [self.text_b[i] for i in indices]
        return Rows([self.text[i] for i in indices], second, self.label[indices], self.sample_id[indices])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any text, label, id, or their order."""
        digest = blake2b(digest_size=8)
        for unit in self.units():
            for text in unit:
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(b"pair" if self.text_b is not None else b"single")
        digest.update(np.ascontiguousarray(self.label).tobytes())
        digest.update(np.ascontiguousarray(self.sample_id).tobytes())
        return digest.hexdigest()


def plain_name(name: object) -> str:
    """A label name without case and punctuation.

    >>> plain_name("Not-Entailment") == plain_name("not_entailment")
    True
    """
    return "".join(character for character in str(name).casefold() if character.isalnum())


def spelling(names: Sequence[str]) -> Callable[[object], str]:
    """How to compare a label with these names: without case and punctuation, unless names would no longer differ.

    >>> spelling(["+", "-"])("-"), spelling(["Yes", "No"])("yes!"), spelling(["us", "US"])("US")
    ('-', 'yes', 'US')
    """
    for spell in (plain_name, _caseless):
        spelt = [spell(name) for name in names]
        if "" not in spelt and len(set(spelt)) == len(spelt):
            return spell
    return str


def _caseless(name: object) -> str:
    return str(name).strip().casefold()


def make_rows(
    columns: dict[str, list[Any]], names: Sequence[str | None], label_names: Sequence[str], where: str
) -> Rows:
    """Turn columns into rows with checked labels.

    Args:
        columns: column name to its N values.
        names: names of the text column, the second text column and the label column; without a label column every label
            is -1 (NaN for regression).
        label_names: names of the classes in order; empty for regression.
        where: what errors call the source, usually its path.

    Raises:
        ValueError: for a label that is no class and no finite number.
    """
    text, text_b, label = names
    assert text is not None
    first = [_text(value) for value in columns[text]]
    second = None if text_b is None else [_text(value) for value in columns[text_b]]
    count = len(first)
    if label is None:
        values = np.full(count, -1, np.int64) if label_names else np.full(count, np.nan, np.float32)
    elif label_names:
        values = _classes(columns[label], label_names, label, where)
    else:
        values = _numbers(columns[label], label, where)
    return Rows(first, second, values, np.arange(count, dtype=np.int64))


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _classes(values: list[Any], label_names: Sequence[str], column: str, where: str) -> np.ndarray:
    spell = spelling(label_names)
    by_name = {spell(name): index for index, name in enumerate(label_names)}
    numbered = any(str(name).strip().isdecimal() for name in label_names)  # numbers are names then, never indices
    known: dict[Any, int] = {}
    result = np.full(len(values), -1, np.int64)
    for row, value in enumerate(values):
        if isinstance(value, Hashable):  # a list, as of several labels, is no class
            if value not in known:
                known[value] = _class(value, by_name, 0 if numbered else len(label_names), spell)
            result[row] = known[value]
    bad = np.flatnonzero(result < 0)
    if len(bad):
        allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(label_names))
        raise ValueError(
            f"`{column}` must be one of {allowed}, but {len(bad)} of {len(values)} rows of {where} are not: row "
            f"{bad[0]} has {values[bad[0]]!r}. Correct the file or `label_names`."
        )
    return result


def _class(value: Any, by_name: dict[str, int], count: int, spell: Callable[[object], str]) -> int:
    """Index of a label given by name, a number included (ratings 1 to 5), or as an index below ``count``; else -1."""
    if isinstance(value, str) and spell(value) in by_name:
        return by_name[spell(value)]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return -1
    if not number.is_integer():
        return -1
    return by_name.get(spell(int(number)), int(number) if 0 <= number < count else -1)


def _numbers(values: list[Any], column: str, where: str) -> np.ndarray:
    result = np.empty(len(values), np.float32)
    for row, value in enumerate(values):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"`{column}` must be a finite number in every row, but row {row} of {where} has {value!r}. "
                "Correct the file, or give `label_names` if the task is a classification."
            )
        result[row] = number
    return result
