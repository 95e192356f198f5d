"""Rows as batches leave them: nested dictionaries of arrays, joined over batches and processes."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_numpy(rows: Any) -> Any:
    """Tensors in nested dictionaries as numpy arrays."""
    if isinstance(rows, dict):
        return {key: to_numpy(value) for key, value in rows.items()}
    return rows.detach().cpu().numpy()


def concatenate(parts: list[Any]) -> Any:
    """Arrays of several parts joined along the rows, through nested dictionaries of one shape."""
    if isinstance(parts[0], dict):
        return {key: concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def merge(ranks: list[dict[str, list[Any]]]) -> dict[str, Any]:
    """All processes' batches joined, by split; a process may have had none."""
    splits = list(dict.fromkeys(split for part in ranks for split in part))
    return {split: concatenate([batch for part in ranks for batch in part.get(split, [])]) for split in splits}
