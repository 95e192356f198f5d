"""Rows gathered over batches and processes, each counted once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dial.stages.repeats import check_repeats, distinct

Rows = dict[str, Any]


class RowGatherer:
    """Keeps what batches say of their rows, by split, on the CPU, until the processes put them together.

    A mean over batches, or over ranks, would count repeated rows twice; a metric such as MCC is no mean at all. So the
    rows themselves are gathered, and whatever is said of them is computed once from all of them.
    """

    def __init__(self) -> None:
        self._batches: dict[str, list[Rows]] = defaultdict(list)

    def add(self, rows: Mapping[str, Any], split: str = "") -> None:
        """One batch: tensors ``(B, ...)`` by name, nested where need be."""
        self._batches[split].append(_to_numpy(rows))

    def clear(self) -> None:
        """Forget what came."""
        self._batches.clear()

    def gather(self) -> dict[str, Rows]:
        """The rows of all processes by split, which are forgotten here; collective. A process may have had none."""
        ranks = gather(dict(self._batches))
        self.clear()
        splits = list(dict.fromkeys(split for part in ranks for split in part))
        return {split: concatenate([batch for part in ranks for batch in part.get(split, [])]) for split in splits}


def numbers(values: Mapping[str, float], device: torch.device) -> dict[str, Tensor]:
    """Numbers to log from every process, as float32 on the module's device: NCCL reduces nothing that is elsewhere."""
    return {name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in values.items()}


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of ranks; collective where several processes run."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _to_numpy(rows: Any) -> Any:
    """Tensors in nested dictionaries as numpy arrays; texts are in one already."""
    if isinstance(rows, Mapping):
        return {key: _to_numpy(value) for key, value in rows.items()}
    return rows if isinstance(rows, np.ndarray) else rows.detach().cpu().numpy()


def concatenate(parts: Sequence[Any]) -> Any:
    """Arrays of several parts joined along the rows, through nested dictionaries of one shape."""
    if isinstance(parts[0], dict):
        return {key: concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def each_once(rows: Rows) -> Rows:
    """Rows sorted by ``sample_id`` and ``part``, without the repeats that fill a distributed sampler's last round.

    Args:
        rows: arrays ``(N, ...)``: ``sample_id``, ``label``, ``logits``, and ``part`` where a row comes in several.

    Raises:
        ValueError: rows of one id differ in label: they are no repeats.
    """
    ids = rows["sample_id"]
    kept, repeats, originals = distinct(ids, rows.get("part"))
    if len(repeats):
        close = {"outputs": rows["logits"]}
        check_repeats(ids, repeats, originals, {"labels": rows["label"]}, close, sampled=True)
    return {name: values[kept] for name, values in rows.items()}
