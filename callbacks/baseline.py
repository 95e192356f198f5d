"""What answering the same for every row would reach: a model that does no better has learned nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.checks import majority
from datamodules.printing import printable
from dial.stages.metrics.metrics import evaluate
from lightning_modules.base import StagedModule


class MajorityBaseline(Callback):
    """At the start of `dial fit` prints the largest class, its share and the metrics of always answering it."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print one line; nothing for regression, whose metrics are correlations, and without labels."""
        if not trainer.is_global_zero or not isinstance(pl_module, StagedModule) or not pl_module.task.exact:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "rows") and getattr(data, "labelled", True):
            train = data.rows("train").label
            print(baseline_line(train[train >= 0], data.rows("validation").label, pl_module), flush=True)


def baseline_line(train: np.ndarray, validation: np.ndarray, module: StagedModule) -> str:
    """The largest class of the training rows, and what always answering it reaches on the validation rows.

    Args:
        train: ``(N,)`` classes.
        validation: ``(M,)`` classes.
        module: knows names and metrics.
    """
    answer, share = majority(train)
    values = {name: evaluate(name, validation, np.full_like(validation, answer)) for name in module.metrics_of_rows}
    shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in values.items())
    return (
        f"majority baseline: {printable(module.label_names[answer])} is {100 * share:.1f} % of the training rows; "
        f"always answering it has {shown} on the validation rows"
    )
