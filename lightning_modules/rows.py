"""Rows gathered over batches and processes, each counted once."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dial.stages.metrics import metrics
from dial.stages.repeats import check_repeats, distinct


class DistinctRows(Metric):
    """Labels and outputs by ``sample_id``, without the repeats that fill a distributed sampler's last round.

    A mean over batches, or over ranks, would count repeated rows twice; a metric such as MCC is no mean at all.
    So the rows themselves are gathered, and the metric is computed once from all of them.

    Args:
        width: number of output columns ``C`` (1 for regression).
    """

    full_state_update = False
    ids: list[Tensor]
    labels: list[Tensor]
    outputs: list[Tensor]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        for name in ("ids", "labels", "outputs"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, ids: Tensor, labels: Tensor, outputs: Tensor) -> None:
        """Add one batch: ``(B,)`` ids, ``(B,)`` labels, ``(B, C)`` outputs."""
        self.ids.append(ids)
        self.labels.append(labels.double())
        self.outputs.append(outputs.detach().float())

    def compute(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids ``(N,)``, labels ``(N,)`` and outputs ``(N, C)``, sorted by id, each id once.

        Raises:
            ValueError: rows of one id differ in label or output: they are no repeats.
        """
        ids, labels, outputs = (dim_zero_cat(x).cpu().numpy() for x in (self.ids, self.labels, self.outputs))
        kept, repeats, originals = distinct(ids)
        if len(repeats):
            check_repeats(ids, repeats, originals, {"labels": labels}, {"outputs": outputs})
        return ids[kept], labels[kept], outputs[kept]

    def evaluate(self, names: list[str]) -> dict[str, float]:
        """Value of each named metric over the distinct rows; predictions are the argmax, or the output itself."""
        _, labels, outputs = self.compute()
        predictions = outputs[:, 0].astype(np.float64) if self.width == 1 else outputs.argmax(axis=1)
        gold = labels if self.width == 1 else labels.astype(np.int64)
        return {name: metrics.evaluate(name, gold, predictions) for name in names}
