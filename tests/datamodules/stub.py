"""A module that trains on nothing but remembers what it was fed."""

from typing import Any

import torch
from lightning.pytorch import LightningModule


class Recorder(LightningModule):
    """Keeps the ids of each training step, and (split index, ids) of each test step."""

    def __init__(self, tokenizers: dict[str, Any]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self._tokenizers = tokenizers
        self.steps: dict[int, list[int]] = {}
        self.tested: list[tuple[int, list[int]]] = []

    def tokenizers(self) -> dict[str, Any]:
        return self._tokenizers

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.steps[self.global_step] = batch["sample_id"].tolist()
        return self.weight * 1.0

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.tested.append((dataloader_idx, batch["sample_id"].tolist()))

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> list[int]:
        return batch["sample_id"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
