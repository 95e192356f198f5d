"""The measured study: TangoBERT's tables on the clock, on `dial test`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.threshold_sweep import staged
from callbacks.tier_export import is_partial
from lightning_modules.adaptive.files import plain
from lightning_modules.inference.study import StudySettings


class MeasuredStudy(Callback):
    """After `dial test`, with ``--study.rows 500``: time, throughput and latency of the cascade and its rivals.

    Off by default, as it takes minutes. Written to ``study/`` in the run folder: ``study.md``, ``study.png``,
    ``study.json``, and ``times.json``, the measured milliseconds by length and batch size, for which operating points
    can then be chosen (``dial sweep --times``, ``dial predict --ms``).

    Args:
        rows: of each reported split's first that are timed; 0: no study.
        repeats: of everything; medians are reported.
        targets: shares of the Super's quality.
        pad_to: tokens that the rival "padded" pads every row to, as the papers' code does.
        score: decides; default: the sweep's first.
        exits: run folder of `dial test` of a model with exits on the same data (DeeBERT), to compare with.
        out: folder. Default: ``study`` in the run folder.
    """

    def __init__(
        self,
        rows: int = 0,
        repeats: int = 5,
        targets: list[float] = [0.99, 0.98],  # noqa: B006  (a list, so that the command line can extend it)
        pad_to: int = 128,
        score: str | None = None,
        exits: str | None = None,
        out: str | None = None,
    ) -> None:
        self.exits, self.out = exits, out
        self.settings: StudySettings | None = None
        if rows:
            try:
                self.settings = StudySettings(rows, repeats, tuple(targets), pad_to, score)
            except ValueError as error:
                raise ValueError(str(error).replace("`", "`study.", 1)) from error

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured, before any model runs."""
        if self.settings is None:
            return
        if trainer.world_size > 1:
            raise ValueError(
                f"`study.rows` needs one process, as others would disturb the clock, but got {trainer.world_size}; "
                "add --trainer.devices=1."
            )
        if len(staged(pl_module).network.stages) < 2:
            raise ValueError(
                "`study.rows` compares stages, but the model has one; test a cascade, or a model with several exits."
            )
        self._check_folder(trainer)
        if self.exits is not None:
            from lightning_modules.inference.operating_point import Sweep

            try:
                Sweep(self.exits)
            except ValueError as error:
                raise ValueError(str(error).replace("`run`", "`study.exits`", 1)) from error

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the sweep's table, measure, write, print."""
        if self.settings is None or self.settings.rows < 1:
            return
        from lightning_modules.adaptive.study_report import render, write_study
        from lightning_modules.adaptive.table import StageTable
        from lightning_modules.inference.study import Study

        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        table = StageTable.load(sweep_folder(trainer) / "stages.parquet")
        split = next(name for name in table.splits if name != "calibration")
        rows = data.rows(split)
        units = {
            int(identity): unit if len(unit) > 1 else unit[0]
            for identity, unit in zip(rows.sample_id, rows.units(), strict=True)
        }
        network = staged(pl_module).network
        study = Study(network, table, split, units, self.settings, data.cache_dir, self._exits(network))
        count = len(study.sampled)
        print(f"study: {count} rows, {self.settings.repeats} repetitions, {len(study.contenders)} models", flush=True)
        results = study.run(lambda text: print(text, flush=True)) | {"partial": is_partial(trainer)}
        folder = self._folder(trainer)
        assert study.times is not None
        folder.mkdir(parents=True, exist_ok=True)
        study.times.save(folder / "times.json")
        write_study(folder, results)
        print(render(results))
        print(f"written to {folder}")

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.out) if self.out else Path(trainer.default_root_dir) / "study"

    def _check_folder(self, trainer: Trainer) -> None:
        """Refuse to replace a study of other settings; partial ones give way."""
        assert self.settings is not None
        path = self._folder(trainer) / "study.json"
        if not path.is_file():
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        if not before.get("partial") and before.get("settings") != plain(dataclasses.asdict(self.settings)):
            raise ValueError(
                f"`study.out` must be a folder without a study of other settings, but {path.parent} has one of "
                f"{before.get('settings')}; name another folder, or remove that one."
            )

    def _exits(self, network: Any) -> Any:
        """The model with exits and its table."""
        if self.exits is None:
            return None
        from lightning_modules.inference.adaptive_classifier import load_network
        from lightning_modules.inference.operating_point import Sweep

        sweep = Sweep(self.exits)
        device = str(next(network.parameters()).device)
        return load_network(sweep, {}, device), sweep.table


def sweep_folder(trainer: Trainer) -> Path:
    """Where the sweep of this run has been written."""
    from callbacks.threshold_sweep import ThresholdSweep

    (sweep,) = (each for each in trainer.callbacks if isinstance(each, ThresholdSweep))  # type: ignore[attr-defined]
    return Path(sweep.out) if sweep.out else Path(trainer.default_root_dir) / "sweep"
