"""Repeated rows: which of several rows with one id is kept, and whether they are repeats at all.

A distributed sampler repeats rows to fill its last round. The repeat stood in another batch, so its outputs differ by
rounding; rows of a file that differ by more are two rows that somebody gave one number. Where the ids are known to be
unique they still are repeats: in bf16 rounding may choose another token to drop or to write, and all that follows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

TOLERANCE = 0.05
"""How far a repeat's outputs may be off, as a share of the largest output in size: several times the noise of bf16."""


def distinct(sample_id: np.ndarray, part: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows sorted by part, then by id, each once.

    Args:
        sample_id: ``(N,)`` integers or strings.
        part: ``(N,)`` integers: ids are unique within a part only.

    Returns:
        Indices of the kept rows ``(M,)``; indices of the repeats ``(N - M,)``; and the kept row of each repeat.

    Example:
        >>> distinct(np.array([7, 3, 7]))
        (array([1, 0]), array([2]), array([0]))
    """
    keys = (sample_id,) if part is None else (sample_id, part)
    order = np.lexsort(keys)
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    kept = order[first]
    return kept, order[~first], kept[np.cumsum(first) - 1][~first]


def check_repeats(
    sample_id: np.ndarray,
    repeats: np.ndarray,
    kept: np.ndarray,
    exact: Mapping[str, np.ndarray],
    close: Mapping[str, np.ndarray],
    split: np.ndarray | None = None,
    sampled: bool = False,
) -> None:
    """Refuse rows of one id that are no repeats.

    Args:
        sample_id: ``(N,)``.
        repeats: indices of the rows to be dropped ``(R,)``.
        kept: indices of the rows that are kept instead ``(R,)``.
        exact: ``(N, ...)`` values that a repeat shares, by what a reader calls them.
        close: the same for values that rounding changes: by up to :data:`TOLERANCE` of the largest in size.
        split: ``(N,)`` names, within which ids are unique.
        sampled: a sampler repeated rows whose ids are unique: warn of what rounding alone does not explain.

    Raises:
        ValueError: they differ; names the id, and what differs.
    """
    differ = {name: values[repeats] != values[kept] for name, values in exact.items()}
    for name, values in close.items():
        largest = np.abs(values[np.isfinite(values)]).max(initial=0)
        with np.errstate(invalid="ignore"):  # what is not finite is refused elsewhere, by name
            differ[name] = np.abs(values[repeats] - values[kept]) > TOLERANCE * largest
    for name, wrong in differ.items():
        bad = np.flatnonzero(wrong.reshape(len(repeats), -1).any(axis=1))
        if len(bad):
            row = repeats[bad[0]]
            within, place = ("", "") if split is None else (" within a split", f" in split {str(split[row])!r}")
            others = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
            if sampled and name in close:
                warnings.warn(
                    f"{len(bad)} of {len(repeats)} repeated rows have other {name} than in another batch, by more than "
                    f"{TOLERANCE:.0%} of the largest, first {sample_id[row]}{place}. The first of each is kept. "
                    "Compute in float32 if you want to know why.",
                    stacklevel=2,
                )
                continue
            raise ValueError(
                f"`sample_id` must be unique{within}, but got {sample_id[row]} with different {name}{place}{others}. "
                "Number the rows."
            )
