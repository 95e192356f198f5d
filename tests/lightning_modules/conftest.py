"""A small SST-2 folder, and a fit of a few steps in this process."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer

from datamodules import GLUEDataModule
from tests.cli.glue_files import write_task


@pytest.fixture(scope="session")
def sst2_folder(tmp_path_factory) -> Path:
    return write_task(tmp_path_factory.mktemp("sst2-small"), "sst2")


@pytest.fixture
def fit(sst2_folder, tmp_path) -> Callable[..., Trainer]:
    """Function: fit a module for `steps` steps, with the trainer's settings; gives the trainer."""

    def run(module: LightningModule, steps: int = 1, ckpt_path: str | None = None, **settings: Any) -> Trainer:
        data = GLUEDataModule("sst2", source=str(sst2_folder), batch_size=8, cache_dir=str(tmp_path / "cache"))
        trainer = Trainer(
            **{
                "accelerator": "cpu",
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "limit_val_batches": 0,
                "max_steps": steps,
                "default_root_dir": str(tmp_path),
                **settings,
            }
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return trainer

    return run
