"""Signals that end one of the trainer's commands: what is done is saved first."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.resume import Resume
from dial.cli.interrupts import INTERRUPTED, Interrupts


class Stoppable(Callback):
    """Lets SIGINT and SIGTERM end a command: at once, but a training step with its end, where a checkpoint is saved.

    Lightning's own handler for SIGTERM acts at the end of a training step only, and ends with exit code 0. With several
    processes nobody waits for the end of the step: they would have to agree on it.

    Args:
        interrupts: take the signals.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self.interrupts = interrupts
        self.resume: Resume | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the checkpoints saved where a signal is held back."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            if isinstance(callback, Resume):
                self.resume, callback.wanted = callback, lambda: self.interrupts.pending

    def take_signals(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the handler that Lightning has set just before its loops start."""
        self.interrupts.install()

    on_sanity_check_start = on_train_start = take_signals
    on_validation_start = on_test_start = on_predict_start = take_signals

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hold signals back while a step is made."""
        self.interrupts.insist()
        if trainer.world_size == 1:
            self.interrupts.hold()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let them act, now that :class:`Resume`, which comes before, has saved where it could."""
        self.interrupts.release()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """End now, if somebody caught what the signal raised."""
        self.interrupts.insist()

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def parting_words(self, command: str) -> str:
        """What to say when a signal has ended a command."""
        if command != "fit":
            return "interrupted; the same command starts again"
        saved = None if self.resume is None else self.resume.saved_at
        return INTERRUPTED if saved is None else f"step {saved:,} is saved\n{INTERRUPTED}"
