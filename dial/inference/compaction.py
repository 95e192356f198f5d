"""Whether rows that have left a multi-exit tier are taken out of the batch at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dial.tiers.batching import Encoding
from dial.tiers.contract import GoOn
from dial.tiers.tier import Tier
from dial.tradeoff.rule import Router

Policy = Literal["always", "measured"]
REPEATS = 5


class Compaction:
    """Takes rows out as soon as they leave.

    Args:
        tier: what rows leave.
    """

    def __init__(self, tier: Tier) -> None:
        self.tier = tier

    @classmethod
    def of(cls, tier: Tier, policy: Policy, device: torch.device) -> Compaction:
        """The policy for a tier on a device; where there is one exit, or a CPU, there is nothing to measure.

        Raises:
            ValueError: an unknown policy.
        """
        if policy not in get_args(Policy):
            raise ValueError(f"`compaction` must be one of {', '.join(get_args(Policy))}, but got {policy!r}.")
        if policy == "always" or len(tier.exits) == 1 or device.type == "cpu":
            return cls(tier)
        return MeasuredCompaction(tier)

    def wrap(self, router: Router, offset: int, encoding: Encoding) -> GoOn:
        """What the tier asks after each exit.

        Args:
            router: of the batch.
            offset: position of the tier's first stage.
            encoding: the batch.
        """
        alone = len(router.ids) == 1

        def ask(exit_index: int, rows: Tensor, outputs: Tensor, scores: Any = None) -> Tensor | Literal[False] | None:
            if alone and scores is None:
                return None if router.decide_row(offset + exit_index, outputs) else False
            deferred = router.decide(offset + exit_index, rows.cpu().numpy(), outputs, scores)
            return None if deferred.all() else torch.from_numpy(deferred).to(rows.device)

        return ask


class MeasuredCompaction(Compaction):
    """Keeps rows that have left in the batch where taking them out costs more time than it saves.

    Such a row is computed on, and what the model says of it is not heard. When all rows have left, the batch ends in
    any case. Times are measured once per shape, on the first batch of that shape: a whole pass over all rows, one over
    half of them, and one that takes half of them out after the first exit.

    Args:
        tier: what rows leave.
        clock: seconds of a call, in all kernels.
    """

    def __init__(self, tier: Tier, clock: Callable[[Callable[[], None]], float] | None = None) -> None:
        super().__init__(tier)
        self.clock = clock or seconds
        self.measured: dict[tuple[int, int], tuple[float, float]] = {}

    def wrap(self, router: Router, offset: int, encoding: Encoding) -> GoOn:
        """As for :class:`Compaction`; rows that wait are not shown to the router again."""
        rows_now = len(router.ids)
        heard = np.ones(rows_now, dtype=bool)
        per_row, cost = self._times(encoding)
        exits = len(self.tier.exits)

        def ask(exit_index: int, rows: Tensor, outputs: Tensor, scores: Mapping[str, Tensor] | None = None) -> Tensor:
            """Keeps rows that have left in the batch, unheard, until taking them out saves more than it costs."""
            inside = rows.cpu().numpy()
            alive = torch.from_numpy(heard[inside]).to(rows.device)
            some = {name: values[alive] for name, values in scores.items()} if scores else None
            keep = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
            keep[alive] = router(offset + exit_index, rows[alive], outputs[alive], some)
            heard[inside] = keep.cpu().numpy()
            left = int((~keep).sum())
            saving = left * per_row * (exits - 1 - exit_index) / exits
            if left == len(rows) or exit_index == exits - 1 or saving > cost:
                return keep
            return torch.ones_like(keep)

        return ask

    def _times(self, encoding: Encoding) -> tuple[float, float]:
        """Seconds that each row adds to a whole pass, and that taking rows out costs; by the next power of two."""
        rows, width = encoding["input_ids"].shape
        shape = (1 << (rows - 1).bit_length(), 1 << (width - 1).bit_length())
        if shape not in self.measured:
            half = {key: value[: (rows + 1) // 2] for key, value in encoding.items()}
            everyone = self.clock(lambda: self.tier.run(encoding, _all))
            fewer = self.clock(lambda: self.tier.run(half, _all))
            taken_out = self.clock(lambda: self.tier.run(encoding, _half_at_first))
            per_row = max(0.0, everyone - fewer) / max(1, rows // 2)
            # Beyond the first of E exits half of the rows are gone: what is not explained by that is the price.
            exits = len(self.tier.exits)
            explained = everyone - (everyone - fewer) * (exits - 1) / exits
            self.measured[shape] = per_row, max(0.0, taken_out - explained)
        return self.measured[shape]


def _all(exit_index: int, rows: Tensor, outputs: Tensor, scores: Any = None) -> Tensor:
    return torch.ones_like(rows, dtype=torch.bool)


def _half_at_first(exit_index: int, rows: Tensor, outputs: Tensor, scores: Any = None) -> Tensor:
    keep = torch.ones_like(rows, dtype=torch.bool)
    if exit_index == 0:
        keep[: len(rows) // 2] = False
    return keep


def seconds(call: Callable[[], None]) -> float:
    """Median seconds of a call, after one that does not count; waits for all kernels."""
    found = []
    for _ in range(REPEATS + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return float(np.median(found[1:]))
