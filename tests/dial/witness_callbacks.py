"""Callbacks that say which callbacks the trainer has, and how far it is."""

from pathlib import Path

from lightning.pytorch import Callback


class Names(Callback):
    def setup(self, trainer, pl_module, stage) -> None:
        print("CALLBACKS", *[type(callback).__name__ for callback in trainer.callbacks])


class Steps(Callback):
    """Appends the step at which training starts, as `start 7`, and each step that was made, as `7`."""

    def __init__(self, out: str) -> None:
        self.out = Path(out)

    def write(self, text: str) -> None:
        with self.out.open("a") as file:
            file.write(f"{text}\n")

    def on_train_start(self, trainer, pl_module) -> None:
        self.write(f"start {trainer.global_step}")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.write(str(trainer.global_step))
