"""How a training ends: validated, and not without a word."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.rank_zero import rank_zero_info


class Ending(Callback):
    """Validates after the last step also where ``trainer.max_steps`` ends an epoch; says why a training ended early.

    Lightning ends within an epoch without validation, so that the last steps could never be the best.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask for the end, which has Lightning validate, with the last step."""
        if is_last_step(trainer):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what ended it."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
                reason = callback.stopping_reason_message.replace(" Signaling Trainer to stop.", "")
                rank_zero_info(
                    f"early stopping in epoch {callback.stopped_epoch}, after step {trainer.global_step}: {reason}"
                )


def is_last_step(trainer: Trainer) -> bool:
    """Whether ``trainer.max_steps`` is reached."""
    return trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps


def validates_at_end(trainer: Trainer) -> bool:
    """Whether the step that was just made is the last, and :class:`Ending` has the trainer validate after it."""
    endings = (isinstance(callback, Ending) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return is_last_step(trainer) and any(endings)
