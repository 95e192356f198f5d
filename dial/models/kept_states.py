"""Encoder states that are computed once and kept, as a frozen encoder says the same of a row at every epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class KeptStates:
    """One vector of each row of a fixed set, on the CPU in float32, computed when it is first asked for.

    Args:
        sample_id: ``(N,)`` rising ids of the rows.

    Example:
        >>> kept = KeptStates(torch.tensor([3, 8]))
        >>> states = torch.tensor([[0.5, 1.0]])
        >>> kept(torch.tensor([8]), lambda rows: states[rows]).tolist()
        [[0.5, 1.0]]
        >>> kept(torch.tensor([8]), lambda rows: 1 / 0).tolist()
        [[0.5, 1.0]]
    """

    def __init__(self, sample_id: Tensor) -> None:
        self.sample_id = sample_id
        self._there = torch.zeros(len(sample_id), dtype=torch.bool)
        self._values: Tensor | None = None

    def __call__(self, sample_id: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """States ``(B, D)`` of some rows, on the device of their ids.

        Args:
            sample_id: ``(B,)`` ids.
            compute: states ``(R, D)`` of those positions ``(R,)`` in ``sample_id`` that are not kept yet.
        """
        rows = torch.searchsorted(self.sample_id, sample_id.cpu())
        missing = (~self._there[rows]).nonzero()[:, 0]
        if len(missing):
            fresh = compute(missing.to(sample_id.device)).detach().float().cpu()
            if self._values is None:
                self._values = torch.empty(len(self.sample_id), fresh.shape[1])
            self._values[rows[missing]] = fresh
            self._there[rows[missing]] = True
        assert self._values is not None
        return self._values[rows].to(sample_id.device)
