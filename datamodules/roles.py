"""Which rows of an official training split serve for training, validation and calibration.

The cut depends on the content of a row, or the name of its group, and on nothing else, so that every tier, teacher and
seed has the same one.
"""

import math
import unicodedata
from hashlib import blake2b

import numpy as np

from datamodules.rows import Rows


def positions(rows: Rows) -> np.ndarray:
    """Place every row in [0, 1) by a hash of its text without case and spacing; ``(N,)`` float64.

    Rows that differ in case, spacing or label only have the same position: duplicates stay together. So do rows of one
    group, or of one block where blocks are named, which have the position of its name.
    """
    together = rows.group if rows.block is None else rows.block
    if together is not None:
        names, inverse = np.unique(together, return_inverse=True)
        return np.array([position((str(name),)) for name in names])[inverse]
    return np.fromiter((position(unit) for unit in rows.units()), np.float64, len(rows))


def position(unit: tuple[str, ...]) -> float:
    """The place in [0, 1) of a row's texts, or of the name of what it belongs to, without case and spacing."""
    plain = "\x1f".join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in unit)
    digest = blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits: more would round up to 1.0


def cut(rows: Rows, fractions: dict[str, float]) -> dict[str, Rows]:
    """Cut rows into the roles of ``fractions``, in that order; what remains is ``train``.

    Args:
        rows: the official training split.
        fractions: role to its expected share of the rows.
    """
    place = positions(rows)
    parts, start = {}, 0.0
    for role, fraction in fractions.items():
        parts[role] = rows.take(np.flatnonzero((place >= start) & (place < start + fraction)))
        start += fraction
    parts["train"] = rows.take(np.flatnonzero(place >= start))
    return parts


def sample(rows: Rows, count: int | None) -> Rows:
    """At most ``count`` rows, drawn by their hash, in source order; a larger draw holds every smaller one.

    Groups and blocks are drawn whole, unless the first is larger than ``count``.
    """
    if count is None or count >= len(rows):
        return rows
    place = positions(rows)
    order = np.argsort(place, kind="stable")
    whole = order[place[order] < place[order[count]]]
    grouped = rows.group is not None or rows.block is not None
    return rows.take(np.sort(whole if grouped and len(whole) else order[:count]))


def default_fractions(count: int) -> dict[str, float]:
    """Shares of calibration and validation for a training split of ``count`` rows, in steps of 0.01.

    5 % each; more in a small split: calibration to reach about 600 rows (at most 20 %), validation about 300 (at most
    10 %).

    >>> default_fractions(67_349), default_fractions(2_490)
    ({'calibration': 0.05, 'validation': 0.05}, {'calibration': 0.2, 'validation': 0.1})
    """
    wanted = {"calibration": (600, 20), "validation": (300, 10)}
    return {
        role: max(5, min(most, math.ceil(100 * rows / max(count, 1)))) / 100 for role, (rows, most) in wanted.items()
    }
