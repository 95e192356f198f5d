"""The sweep in this process: real tiers, data and trainer, without figures."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer

from callbacks import ThresholdSweep
from datamodules import GLUEDataModule
from dial.report.figures import plots
from dial.stages.parquet import load_table, save_table
from dial.stages.table import StageTable
from tests.cli.glue_files import write_task


@dataclass
class Tested:
    """What a test run left."""

    folder: Path
    table: StageTable
    data: GLUEDataModule
    metrics: dict[str, float]


@pytest.fixture(scope="session")
def glue(tmp_path_factory) -> Callable[[str], Path]:
    """Function: folder with the files of a task."""
    folder = tmp_path_factory.mktemp("glue-all")

    def write(task: str) -> Path:
        return folder if (folder / task).is_dir() else write_task(folder, task)

    return write


@pytest.fixture
def sweep(tmp_path, glue, monkeypatch) -> Callable[..., Tested]:
    """Function: test a module on a task with a ThresholdSweep.

    Takes a function from the data module to the module, settings of the data, of the sweep and of the trainer. Writes
    the table alone, unless `report` is true.
    """
    monkeypatch.setattr(plots, "figures", lambda *values: {})
    folder = tmp_path / "sweep"

    def run(
        build: Callable[[GLUEDataModule], LightningModule],
        task: str = "sst2",
        data: dict[str, Any] | None = None,
        trainer: dict[str, Any] | None = None,
        report: bool = False,
        **settings: Any,
    ) -> Tested:
        if not report:
            monkeypatch.setattr(
                ThresholdSweep,
                "write",
                lambda self, trainer, module, table: save_table(table, folder / "stages.parquet"),
            )
        module = GLUEDataModule(
            task,
            cache_dir=str(tmp_path / "cache"),
            **{
                "source": str(glue(task)),
                "batch_size": 8,
                "calibration_fraction": 0.4,
                "min_calibration": 20,
                **(data or {}),
            },
        )
        runner = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            default_root_dir=str(tmp_path),
            callbacks=[ThresholdSweep(**{"bootstrap": 100, **settings})],
            **(trainer or {}),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (metrics, *_) = runner.test(build(module), datamodule=module, verbose=False)
        return Tested(folder, load_table(folder / "stages.parquet"), module, metrics)

    return run
