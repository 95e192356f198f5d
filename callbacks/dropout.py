"""Dropout that does not hold up a training on a CPU."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from dial.models.dropout import draw_bernoulli_from_bits


class CheapDropout(Callback):
    """Draws dropout masks from 16 random bits an element (32 for rare ones) where a fit runs on a CPU.

    A training step takes a tenth to a fifth less for it (`benchmarks/bench_dropout.py`).
    """

    def __init__(self) -> None:
        self._held: object | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        if pl_module.device.type == "cpu":
            self._held = draw_bernoulli_from_bits()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give torch's own back."""
        self._held = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give torch's own back."""
        self._held = None
