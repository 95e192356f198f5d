"""A callback that says which callbacks the trainer has."""

from lightning.pytorch import Callback


class Names(Callback):
    def setup(self, trainer, pl_module, stage) -> None:
        print("CALLBACKS", *[type(callback).__name__ for callback in trainer.callbacks])
