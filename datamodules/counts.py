"""What a run says of its rows: how many each role has, of which classes, and whether training rows are tested on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.printing import printable
from datamodules.rows import Rows

MOST_SHOWN = 20  # classes of a line


def role_line(role: str, rows: Rows, label_names: Sequence[str]) -> str:
    """Number of a role's rows, and what their labels are.

    Args:
        role: name of the role.
        rows: its rows.
        label_names: of the classes in order; empty for regression.

    >>> rows = Rows(["a", "b", "c"], None, np.array([1, 0, 1]), np.arange(3))
    >>> role_line("train", rows, ["no", "yes"])
    'train: 3 rows (no: 1, yes: 2)'
    """
    about = _class_counts(rows.label, label_names) if label_names else _values(rows.label)
    return f"{role}: {len(rows)} rows{f' ({about})' if about else ''}"


def _class_counts(label: np.ndarray, label_names: Sequence[str]) -> str:
    counts = np.bincount(label[label >= 0], minlength=len(label_names))
    if not counts.sum():
        return ""
    shown = [f"{printable(name)}: {count}" for name, count in zip(label_names[:MOST_SHOWN], counts, strict=False)]
    if len(label_names) > MOST_SHOWN:
        rest = counts[MOST_SHOWN:]
        shown.append(f"{len(rest)} more classes of {rest.min()} to {rest.max()} rows")
    return ", ".join(shown)


def _values(label: np.ndarray) -> str:
    given = label[~np.isnan(label)]
    return f"from {given.min():g} to {given.max():g}, mean {given.mean():g}" if len(given) else ""


def leakage_lines(parts: Mapping[str, Rows]) -> list[str]:
    """One line for each other role some of whose texts are training rows too, letter by letter.

    Args:
        parts: rows by role.

    >>> one, two = (Rows(texts, None, np.zeros(2, int), np.arange(2)) for texts in (["a", "b"], ["b", "c"]))
    >>> leakage_lines({"train": one, "test": two})
    ['leakage: 1 of 2 test rows are training rows too (the same text); quality on those says nothing about new rows']
    """
    known = set(parts["train"].units()) if "train" in parts else set()
    lines = []
    for role, rows in parts.items():
        shared = sum(unit in known for unit in rows.units()) if known and role != "train" else 0
        if shared:
            lines.append(
                f"leakage: {shared} of {len(rows)} {role} rows are training rows too (the same text); quality on those "
                "says nothing about new rows"
            )
    return lines


def majority(label: np.ndarray) -> tuple[int, float]:
    """The most frequent class of ``(N,)`` labels, and its share; the first of several.

    >>> majority(np.array([2, 0, 2, 1]))
    (2, 0.5)
    """
    (largest, count), *_ = sorted(Counter(label.tolist()).items(), key=lambda item: (-item[1], item[0]))
    return int(largest), count / len(label)
