"""Words whose vectors are most alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from datamodules.augmentation.split_text import is_word

BLOCK = 256  # words compared with all others at a time


def neighbours_of(
    words: Iterable[str], names: Sequence[str], vectors: np.ndarray, count: int
) -> dict[str, tuple[str, ...]]:
    """The most similar words of each word, by the cosine of their vectors, the most similar first.

    Args:
        words: looked for as they are spelt, or else in lower case; those without a vector have no neighbours.
        names: the V words that have vectors.
        vectors: ``(V, width)``.
        count: neighbours of each.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]])
        >>> neighbours_of(["Good", "odd"], ["good", "fine", "film", "nice"], vectors, 2)
        {'Good': ('fine', 'nice')}
    """
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    known = {word: place[name] for word in sorted(set(words)) for name in (word, word.lower()) if name in place}
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = np.ascontiguousarray(unit, dtype=np.float32)
    # Marks and numbers stand for no word, and a name that occurs twice for the first.
    allowed = np.array([is_word(name) and place[name] == i for i, name in enumerate(names)], dtype=bool)
    allowed_at = np.flatnonzero(allowed)
    columns = unit[allowed_at].T
    rows = np.array(sorted(set(known.values())), dtype=np.int64)
    nearest: dict[int, tuple[str, ...]] = {}
    kept = min(count + 1, len(allowed_at))  # the word itself is one of them
    for start in range(0, len(rows) if kept else 0, BLOCK):
        block = rows[start : start + BLOCK]
        similar = unit[block] @ columns
        best = np.argpartition(-similar, kept - 1, axis=1)[:, :kept]
        order = np.lexsort((best, -np.take_along_axis(similar, best, axis=1)), axis=1)
        for row, others in zip(block, allowed_at[np.take_along_axis(best, order, axis=1)], strict=True):
            nearest[int(row)] = tuple(names[i] for i in others if i != row)[:count]
    return {word: nearest[i] for word, i in known.items() if nearest.get(i)}
