"""Levenshtein distances of many pairs at once."""

from collections.abc import Hashable, Sequence

import numpy as np

CHUNK = 2_000_000  # cells of one row of all tables that are computed together


def edit_distances(first: Sequence[Sequence[Hashable]], second: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Fewest insertions, deletions and replacements from each sequence to its partner, ``(N,)`` int64.

    Pairs go through the table of Wagner and Fischer (1974) side by side, a row of it at a time. Along a row the least
    of "one more insertion" is a running minimum once the position is taken off.

    Args:
        first: N strings, or sequences of tokens.
        second: N others.

    Example:
        >>> edit_distances(["kitten", "", ["a", "b"]], ["sitting", "ab", ["b"]])
        array([3, 2, 1])
    """
    result = np.zeros(len(first), np.int64)
    lengths = np.array([[len(one), len(other)] for one, other in zip(first, second, strict=True)]).reshape(-1, 2)
    order = np.lexsort(lengths.T)  # pairs of like length together: little of a table is padding
    start = 0
    while start < len(order):
        size = max(1, CHUNK // (int(lengths[order[start:], 1].max()) + 1))
        rows = order[start : start + size]
        result[rows] = _distances([first[row] for row in rows], [second[row] for row in rows])
        start += size
    return result


def _distances(first: Sequence[Sequence[Hashable]], second: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Edit distances of all pairs at once, a row of each pair's matrix a step (Wagner and Fischer)."""
    numbers: dict[Hashable, int] = {}
    one, other = _matrix(first, numbers, -1), _matrix(second, numbers, -2)
    lengths = np.array([len(row) for row in first]), np.array([len(row) for row in second])
    places = np.arange(other.shape[1] + 1)
    row = np.tile(places, (len(first), 1))
    result = row[np.arange(len(first)), lengths[1]]
    for step in range(one.shape[1]):
        below = np.empty_like(row)
        below[:, 0] = step + 1
        below[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + (other != one[:, step : step + 1]))
        row = np.minimum.accumulate(below - places, axis=1) + places
        ends = lengths[0] == step + 1
        result[ends] = row[ends, lengths[1][ends]]
    return result


def _matrix(sequences: Sequence[Sequence[Hashable]], numbers: dict[Hashable, int], filler: int) -> np.ndarray:
    """Items as numbers ``(N, L)``; equal items have equal numbers."""
    matrix = np.full((len(sequences), max(map(len, sequences), default=0)), filler, np.int64)
    for line, sequence in zip(matrix, sequences, strict=True):
        line[: len(sequence)] = [numbers.setdefault(item, len(numbers)) for item in sequence]
    return matrix
