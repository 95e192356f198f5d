"""How one of the trainer's commands ends before its end: by a signal, or by an error in one of its processes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.resume import Resume
from dial.cli.interrupts import INTERRUPTED, Interrupts, Stopped

PATIENCE = 5.0  # seconds: enough for rank 0 to find the same error


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
                self.resume, callback.save_now = callback, lambda: self.interrupts.pending

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


@contextmanager
def failing_together(trainer: Trainer) -> Iterator[None]:
    """Where one process fails inside, all end, and the one that knows why says it.

    Rank 0 kills the processes that it has started; left alone they would wait for it, or repeat its message. Another
    rank waits for that, since rank 0 may fail for the same reason; if it is still there, it is alone with its error.

    Where a signal stops rank 0 the others end with it.

    Raises:
        ConnectionError: instead of the error that a process gets whose peer has ended.
    """
    try:
        yield
    except Stopped:
        end_others(trainer)
        raise
    except Exception as error:
        if trainer.global_rank > 0:
            time.sleep(PATIENCE)
        end_others(trainer)
        if trainer.world_size > 1 and re.search("Connection (closed|reset) by peer", str(error)):
            raise ConnectionError("another process of this command failed; its message says why.") from error
        raise


def end_others(trainer: Trainer) -> None:
    """Kill the processes that this one has started, if it has."""
    launcher = trainer.strategy.launcher
    processes = getattr(launcher, "procs", [])
    if launcher is not None:
        launcher.kill(signal.SIGKILL)
    for process in processes:
        process.wait()
    processes.clear()  # Lightning watches them, and kills this process, too, when it finds one dead


def starts_run() -> bool:
    """Whether this process is the first of its command, which others may be started for; known before the trainer is.

    Ranks that a cluster starts are told by its variables, those that Lightning starts by its own.
    """
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return not getattr(rank_zero_only, "rank", 0) and node == "0"
