"""Words whose vectors are most alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.augmentation.generation import chunks, in_order
from datamodules.augmentation.split_text import is_word

BLOCK = 256  # words compared with all others at a time
FEW = 16 * BLOCK  # words for which no other process is worth its start


@dataclass
class Nearest:
    """Finds the rows of a matrix that are nearest to others of its rows, by their cosine.

    Attributes:
        unit: ``(V, width)`` vectors of length 1.
        allowed: ``(A,)`` rows that may be found, rising.
        count: rows to find, at most.
    """

    unit: np.ndarray
    allowed: np.ndarray
    count: int

    def __call__(self, rows: list[int]) -> list[list[int]]:
        """The nearest rows of each of these, the nearest first, without itself."""
        similar = self.unit[rows] @ self.unit[self.allowed].T
        kept = min(self.count + 1, len(self.allowed))  # the row itself is one of them
        best = np.argpartition(similar, -kept, axis=1)[:, -kept:]
        order = np.lexsort((best, -np.take_along_axis(similar, best, axis=1)), axis=1)
        found = self.allowed[np.take_along_axis(best, order, axis=1)].tolist()
        return [[i for i in others if i != row][: self.count] for row, others in zip(rows, found, strict=True)]


def neighbours_of(
    words: Iterable[str], names: Sequence[str], vectors: np.ndarray, count: int, processes: int = 1
) -> dict[str, tuple[str, ...]]:
    """The most similar words of each word, by the cosine of their vectors, the most similar first.

    Args:
        words: looked for as they are spelt, or else in lower case; those without a vector have no neighbours.
        names: the V words that have vectors; of those that occur twice the first counts.
        vectors: ``(V, width)``.
        count: neighbours of each; none of them is a number or a mark.
        processes: that work at a time.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]])
        >>> neighbours_of(["Good", "odd"], ["good", "fine", "film", "nice"], vectors, 2)
        {'Good': ('fine', 'nice')}
    """
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    known = {word: place[name] for word in sorted(set(words)) for name in (word.lower(), word) if name in place}
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    allowed = np.array([i for i, name in enumerate(names) if is_word(name) and place[name] == i], dtype=np.int64)
    rows = sorted(set(known.values()))
    if not len(allowed):
        return {}
    work = Nearest(np.ascontiguousarray(unit, dtype=np.float32), allowed, count)
    parts = in_order(work, chunks(rows, BLOCK), processes if len(rows) > FEW else 1)
    nearest = dict(zip(rows, (others for part in parts for others in part), strict=True))
    return {word: tuple(names[i] for i in nearest[row]) for word, row in known.items() if nearest[row]}
