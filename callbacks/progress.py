"""Progress for log files, where a moving bar shows nothing."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LogProgress(Callback):
    """Prints a line every so many seconds of training where standard output is no terminal.

    Args:
        every_seconds: time between two lines; 0 prints none.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        if every_seconds < 0:
            raise ValueError(f"`progress.every_seconds` must be at least 0, but got {every_seconds}.")
        self.every_seconds = every_seconds
        self._begin, self._first, self._last = 0.0, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember when and at which step this process began."""
        self._begin = self._last = time.monotonic()
        self._first = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the step, the loss, the pace and the time left, when it is time."""
        now = time.monotonic()
        due = self.every_seconds and now - self._last >= self.every_seconds
        if not due or not trainer.is_global_zero or sys.stdout.isatty():
            return
        self._last = now
        pace = (trainer.global_step - self._first) / (now - self._begin)
        total = total_steps(trainer)
        left = f", {(total - trainer.global_step) / pace / 60:.1f} minutes left" if total and pace else ""
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        print(
            f"epoch {trainer.current_epoch} step {trainer.global_step}{f'/{total}' if total else ''}: "
            f"loss {loss:.3f}, {pace:.1f} steps/s{left}",
            flush=True,
        )


def total_steps(trainer: Trainer) -> int | None:
    """Optimiser steps of the whole fit, whichever limit comes first; None where it has no end."""
    limits = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs not in (None, -1) and trainer.num_training_batches != float("inf"):
        per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        limits.append(per_epoch * int(trainer.max_epochs or 0))
    return min(limits, default=None)
