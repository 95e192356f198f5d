"""A run that continues from any checkpoint sees the batches that an uninterrupted one sees."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import GradedSentimentDataModule

EPOCHS, BATCHES = 3, 4


def make_data(workers: int) -> GradedSentimentDataModule:
    return GradedSentimentDataModule(
        train_rows=30, validation_rows=9, calibration_rows=9, test_rows=9, batch_size=8, num_workers=workers
    )


def make_trainer(folder: Path, **options: object) -> Trainer:
    options = {"max_epochs": EPOCHS, "limit_train_batches": 1.0, **options}
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.fixture
def recorder(tiny_tokenizer):
    from tests.datamodules.stub import Recorder

    return lambda: Recorder({"words": (tiny_tokenizer, 32)})


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used")  # these make the checkpoints
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [1.0, 3])
def test_every_checkpoint_continues_with_the_same_rows(recorder, tmp_path: Path, workers: int, limit: float) -> None:
    every_step = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    every_epoch = ModelCheckpoint(tmp_path, filename="validated-{step}", every_n_epochs=1, save_top_k=-1)
    whole = recorder()
    trainer = make_trainer(tmp_path, limit_train_batches=limit, callbacks=[every_step, every_epoch])
    trainer.fit(whole, datamodule=make_data(workers))
    steps = EPOCHS * (BATCHES if limit == 1.0 else limit)
    assert sorted(whole.steps) == list(range(steps))
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) == steps + EPOCHS
    for path in checkpoints if workers == 0 else checkpoints[1::5]:
        at = torch.load(path, weights_only=True)["global_step"]
        continued = recorder()
        make_trainer(tmp_path / path.stem, limit_train_batches=limit, enable_checkpointing=False).fit(
            continued, datamodule=make_data(workers), ckpt_path=path
        )
        assert continued.steps == {step: ids for step, ids in whole.steps.items() if step >= at}, path.name
