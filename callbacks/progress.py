"""Progress for log files, where a moving bar shows nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LogProgress(Callback):
    """Prints a line every so many seconds of training, tests and predictions where standard output is no terminal.

    Args:
        every_seconds: time between two lines; 0 prints none.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        if every_seconds < 0:
            raise ValueError(f"`progress.every_seconds` must be at least 0, but got {every_seconds}.")
        self.every_seconds = every_seconds
        self._begin, self._first, self._last = 0.0, 0, 0.0
        self._pass_began, self._pass_last, self._batches, self._total = 0.0, 0.0, 0, 0.0  # without training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember when and at which step this process began."""
        self._begin = self._last = time.monotonic()
        self._first = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the step, the loss, the pace and the time left, when it is time."""
        now = time.monotonic()
        if not self._due(trainer, now - self._last):
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

    def _due(self, trainer: Trainer, passed: float) -> bool:
        """Whether a line is to be printed, so many seconds after the last one."""
        wanted = self.every_seconds and passed >= self.every_seconds
        return bool(wanted and trainer.is_global_zero and not sys.stdout.isatty())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count its batches from here on."""
        self._start_pass(trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count its batches from here on, those of all splits together."""
        self._start_pass(trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count its batches from here on."""
        self._start_pass(trainer.num_predict_batches)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Print the batches and the time left, when it is time."""
        self._count_batch(trainer, "validation")

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Like :meth:`on_validation_batch_end`."""
        self._count_batch(trainer, "test")

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Like :meth:`on_validation_batch_end`."""
        self._count_batch(trainer, "predict")

    def _start_pass(self, batches: Sequence[float] | float) -> None:
        self._total = sum(batches) if isinstance(batches, Sequence) else batches
        self._batches, self._pass_began = 0, time.monotonic()
        self._pass_last = self._pass_began

    def _count_batch(self, trainer: Trainer, what: str) -> None:
        """Long rows come first, so that less time is left than the pace so far says."""
        self._batches += 1
        now = time.monotonic()
        if not self._due(trainer, now - self._pass_last):
            return
        self._pass_last = now
        line = f"{what}: batch {self._batches}"
        if self._total != float("inf"):
            minutes = (self._total - self._batches) * (now - self._pass_began) / self._batches / 60
            line += f"/{self._total:.0f}, at most {minutes:.1f} minutes left"
        print(line, flush=True)


def total_steps(trainer: Trainer) -> int | None:
    """Optimiser steps of the whole fit, whichever limit comes first; None where it has no end."""
    limits = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs not in (None, -1) and trainer.num_training_batches != float("inf"):
        per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        limits.append(per_epoch * int(trainer.max_epochs or 0))
    return min(limits, default=None)
