"""Which checkpoint is the best: a choice that begins anew where what came before must not win."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint


def start_choosing(trainer: Trainer) -> None:
    """Let the choice of the best checkpoint and early stopping begin anew."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            callback.best_k_models, callback.kth_best_model_path = {}, ""
            callback.best_model_path, callback.best_model_score = "", None
            callback.current_score, callback.kth_value = None, torch.tensor(worst(callback.mode))
        elif isinstance(callback, EarlyStopping):
            callback.wait_count, callback.best_score = 0, torch.tensor(worst(callback.mode))


def worst(mode: str) -> float:
    """The value that every other one improves on."""
    return float("inf") if mode == "min" else float("-inf")
