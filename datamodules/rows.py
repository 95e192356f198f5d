"""Rows of one role as they were read: texts, labels and where each came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from datamodules.labels import KINDS, REMEDY, Hidden, class_labels, is_missing, number_labels
from datamodules.row_files import text_problem


@dataclass(frozen=True, eq=False)
class Rows:
    """The decision units of one role.

    Attributes:
        text: N first texts.
        text_b: N second texts, or ``None`` where a unit is one text.
        label: ``(N,)`` int64 class indices, or float32 values for regression.
        sample_id: ``(N,)`` int64 row index in the source file.
        group: ``(N,)`` names of what rows belong to (a document, a question), or None where each row stands alone.
        targets: N tuples of texts, the references of a row: the first is trained on; None where no text is written.
        sources: N texts that an encoder-decoder reads for the units, such as T5's ``rte sentence1: … sentence2: …``;
            None where it reads the first text. Rows are told apart, and roles cut, by the units alone.
        block: ``(N,)`` names of what stays in one role, where that is more than a group (the paragraph of a question).
        spans: ``(N, 2)`` first character of the answer in the second text and the one behind it, -1 where there is
            none; None where rows are not answered by spans.
    """

    text: Sequence[str]
    text_b: Sequence[str] | None
    label: np.ndarray
    sample_id: np.ndarray
    group: np.ndarray | None = None
    targets: Sequence[tuple[str, ...]] | None = None
    sources: list[str] | None = None
    block: np.ndarray | None = None
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.text)

    def units(self) -> Iterator[tuple[str, ...]]:
        """Yield each unit as ``(text,)`` or ``(text, text_b)``."""
        if self.text_b is None:
            return ((text,) for text in self.text)
        return zip(self.text, self.text_b, strict=True)

    def take(self, indices: np.ndarray) -> "Rows":
        """Rows at ``indices (M,)``, in that order."""

        def chosen(column: Any) -> Any:
            if column is None or isinstance(column, np.ndarray):
                return None if column is None else column[indices]
            return [column[i] for i in indices]

        return Rows(*(chosen(getattr(self, each.name)) for each in fields(self)))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any text, label, id, group, target or source, or their order."""
        digest = blake2b(digest_size=8)
        for unit in self.units():
            for text in unit:
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(b"pair" if self.text_b is not None else b"single")
        digest.update(np.ascontiguousarray(self.label).tobytes())
        digest.update(np.ascontiguousarray(self.sample_id).tobytes())
        if self.group is not None:
            digest.update("\x1f".join(self.group.tolist()).encode("utf-8", "surrogatepass"))
        for references in self.targets or ():
            digest.update("\x1f".join((*references, "\x1e")).encode("utf-8", "surrogatepass"))
        if self.sources is not None:
            digest.update("\x1f".join(self.sources).encode("utf-8", "surrogatepass"))
        if self.spans is not None:
            digest.update(np.ascontiguousarray(self.spans).tobytes())
        return digest.hexdigest()


def make_rows(
    columns: dict[str, list[Any]],
    names: Sequence[str | None],
    label_names: Sequence[str],
    where: str,
    hidden: Hidden | None = None,
    remedy: str = REMEDY,
    group: str | None = None,
) -> Rows:
    """Turn columns into rows with checked texts and labels.

    Args:
        columns: column name to its N values.
        names: names of the text column, the second text column and the label column; without a label column every label
            is -1 (NaN for regression).
        label_names: names of the classes in order; empty for regression.
        where: what errors call the source, usually its path.
        hidden: which labels are none; they are -1 (NaN for regression), too.
        remedy: what an error about a class advises.
        group: name of the column that says which rows belong together.

    Raises:
        ValueError: for a text that is none, for a label that is no class and no finite number, and for a row without a
            group.
    """
    text, text_b, label = names
    assert text is not None
    for name in (text, text_b):
        for row, value in enumerate(columns[name] if name is not None else []):
            problem = text_problem(value, str(name))
            if problem:
                raise ValueError(f"`{name}` must be a text in every row, but {where}, row {row}: {problem}.")
    count = len(columns[text])
    if label is None:
        values = np.full(count, -1, np.int64) if label_names else np.full(count, np.nan, np.float32)
    elif label_names:
        values = class_labels(columns[label], label_names, label, where, hidden, remedy)
    else:
        values = number_labels(columns[label], label, where, hidden)
    second = None if text_b is None else list(columns[text_b])
    groups = None if group is None else group_names(columns[group], group, where)
    return Rows(list(columns[text]), second, values, np.arange(count, dtype=np.int64), groups)


def group_names(values: Sequence[Any], column: str, where: str) -> np.ndarray:
    """Names ``(N,)`` of what rows belong to, from a column of texts or numbers.

    Raises:
        ValueError: a row that belongs to nothing.
    """
    for row, value in enumerate(values):
        if is_missing(value) or not isinstance(value, KINDS):
            raise ValueError(
                f"`{column}` must say in every row what it belongs to, a text or a number, but {where}, row {row} has "
                f"{value!r}. Fill it in, or leave `group_column` out."
            )
    return np.array([str(value) for value in values], dtype=str)
