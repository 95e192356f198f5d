"""Callbacks that say which callbacks the trainer has, and how far it is."""

import time
from pathlib import Path

from lightning.pytorch import Callback


class Names(Callback):
    def setup(self, trainer, pl_module, stage) -> None:
        print("CALLBACKS", *[type(callback).__name__ for callback in trainer.callbacks])


class Steps(Callback):
    """Appends a line when training starts, `start 7 12.3`, and for each step, `step 8 12.4`: number and seconds."""

    def __init__(self, out: str) -> None:
        self.out = Path(out)

    def write(self, text: str) -> None:
        with self.out.open("a") as file:
            file.write(f"{text} {time.monotonic():.3f}\n")

    def on_train_start(self, trainer, pl_module) -> None:
        self.write(f"start {trainer.global_step}")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.write(f"step {trainer.global_step}")
