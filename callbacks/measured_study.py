"""The measured study: TangoBERT's tables on the clock, on `dial test`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.threshold_sweep import ThresholdSweep, staged
from datamodules.checks import is_partial
from datamodules.row_tokens import NO_FORM
from dial.claims import check_files
from dial.files import plain, read_json
from dial.inference.operating_point import Sweep
from dial.inference.run import load_network
from dial.inference.staged import StagedModel
from dial.spelling import spelt
from dial.stages.parquet import load_table
from dial.stages.table import StageTable
from dial.stages.task import task_of
from dial.study.report import FILES, render, write_study
from dial.study.rivals import check_names
from dial.study.study import Study, StudySettings
from dial.study.written import NO_SCORE, WrittenStudy, render_written, write_written_study
from lightning_modules.base import StagedModule


class MeasuredStudy(Callback):
    """After `dial test`, with ``--study.rows 500``: time, throughput and latency of the cascade and its rivals.

    Off by default, as it takes minutes. Written to ``study/`` in the run folder: ``study.md``, ``study.png``,
    ``study.json``, and ``times.json``, the measured milliseconds by length and batch size, for which operating points
    can then be chosen (``dial sweep --times``, ``dial predict --ms``). Where tiers write it is E-LANG's Table 1:
    ``study.md`` and ``study.json``.

    Args:
        rows: of the first reported split that are timed, spread evenly; 0: no study.
        repeats: of everything; medians are reported.
        targets: shares of the Super's quality.
        pad_to: tokens that the rival "padded" pads every row to, as the papers' code does.
        score: decides; default: the sweep's first.
        exits: run folder of `dial test` of a model with exits on the same data (DeeBERT), to compare with.
        out: folder. Default: ``study`` in the run folder.
        compiled: add the Super compiled ahead of time by torch (AOTInductor); takes a C++ compiler and minutes.
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
        compiled: bool = False,
    ) -> None:
        self.exits, self.out = exits, out
        self.settings: StudySettings | None = None
        self._other: tuple[StagedModel, StageTable] | None = None
        self._models: dict[str, Any] = {}
        if rows:
            with spelt({each.name: f"study.{each.name}" for each in dataclasses.fields(StudySettings)}):
                self.settings = StudySettings(rows, repeats, tuple(targets), pad_to, score, compiled=compiled)

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
        if staged(pl_module).network.writes and (self.exits is not None or self.settings.compiled):
            raise ValueError(
                f"`study.{'compiled' if self.exits is None else 'exits'}` is for tiers that answer by their outputs, "
                "but one of these writes; leave it out."
            )
        self._check_sources(trainer, staged(pl_module).network)
        check_names(list(staged(pl_module).network.tiers), self.exits is not None, self.settings.compiled)
        known = sweep_of(trainer).score_names(staged(pl_module))
        if self.settings.score is not None and self.settings.score not in known:
            raise ValueError(
                f"`study.score` must be one of {', '.join(known)}, but got {self.settings.score!r}; "
                "the sweep can look at others (--sweep.scores)."
            )
        if staged(pl_module).network.writes and (self.settings.score or next(iter(known))) == "random":
            raise ValueError(NO_SCORE.format("study.score"))
        self._other = None if self.exits is None else self._load_exits(trainer, staged(pl_module))
        self._models = self._identity(staged(pl_module).network)
        self._check_folder(trainer)

    def _check_sources(self, trainer: Trainer, network: StagedModel) -> None:
        """Refuse a classifier before tiers that write where its rows do not tell what these read."""
        form = getattr(trainer.datamodule, "source_form", None)  # type: ignore[attr-defined]
        if network.writes and form == NO_FORM and not all(tier.writes for tier in network.tiers):
            raise ValueError(
                "`study.rows` needs rows that are a text or a pair each where a classifier comes before tiers that "
                "write, but those of this task are more; leave it out, or take tiers that all write."
            )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the sweep's table, measure, write, print."""
        if self.settings is None or self.settings.rows < 1:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        table = load_table(sweep_folder(trainer) / "stages.parquet")
        split = next(name for name in table.splits if name != "calibration")
        network = staged(pl_module).network
        folder = self._folder(trainer)
        about = {"partial": is_partial(trainer), "models": self._models}
        given = network, table, split, units_of(data, network, split), self.settings, data.cache_dir
        if network.writes:
            print(self._measure_writers(WrittenStudy(*given), folder, about))
        else:
            print(self._measure(Study(*given, exits=self._other), folder, about))
        print(f"written to {folder}")

    def _measure(self, study: Study, folder: Path, about: dict[str, Any]) -> str:
        """Measure tiers that answer by their outputs, write that and ``about``, and say what came out."""
        count = len(study.sampled)
        print(f"study: {count} rows, {study.settings.repeats} repetitions, {len(study.contenders)} models", flush=True)
        results = study.run(lambda text: print(text, flush=True)) | about
        assert study.times is not None
        folder.mkdir(parents=True, exist_ok=True)
        study.times.save(folder / "times.json")
        write_study(folder, results)
        return render(results)

    def _measure_writers(self, study: WrittenStudy, folder: Path, about: dict[str, Any]) -> str:
        """The same of a cascade with tiers that write."""
        print(f"study: {len(study.units)} rows, {study.settings.repeats} repetitions", flush=True)
        results = study.run(lambda text: print(text, flush=True)) | about
        write_written_study(folder, results)
        return render_written(results)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.out) if self.out else Path(trainer.default_root_dir) / "study"

    def _check_folder(self, trainer: Trainer) -> None:
        """Refuse to replace a study of other settings; partial ones give way."""
        assert self.settings is not None
        path = self._folder(trainer) / "study.json"
        argument = "study.out" if self.out else "--run"
        # The table of times comes first, the study last.
        first, keys = (path, ("settings",)) if path.exists() else (path.with_name("times.json"), ("unit", "tiers"))
        ours = first.is_file() and all(key in read_json(first, argument) for key in keys)
        check_files(path.parent, FILES, ours, argument)
        if not path.is_file():
            return
        before = read_json(path, "study.out")
        same = {"compiled": False, **before.get("settings", {})} == plain(dataclasses.asdict(self.settings))
        same = same and before.get("models", self._models) == self._models
        if not before.get("partial") and (not same or is_partial(trainer)):
            raise ValueError(
                f"`study.out` must be a folder without a study of other settings or models, but {path.parent} has one "
                f"of {before.get('settings')}; name another folder, or remove that one."
            )

    def _identity(self, network: StagedModel) -> dict[str, Any]:
        """Fingerprints of all tiers, and of those of the model with exits."""
        other = [] if self._other is None else self._other[0].tiers
        return {
            "tiers": {tier.name: tier.fingerprint for tier in network.tiers},
            "exits": {tier.name: tier.fingerprint for tier in other},
        }

    def _load_exits(self, trainer: Trainer, module: StagedModule) -> tuple[StagedModel, StageTable]:
        """The model with exits and its table.

        Raises:
            ValueError: it is none, or was tested on other labels or rows, or its tier is not found.
        """
        assert self.exits is not None
        with spelt({"run": "study.exits"}):
            sweep = Sweep(self.exits)
        if len(sweep.settings["tiers"]) > 1 or len(sweep.stages) < 2:
            raise ValueError(
                f"`study.exits` must be a run of one model with several exits, but {self.exits} has the stages "
                f"{', '.join(sweep.stages)}; give the folder of `dial test` of such a model alone."
            )
        if sweep.summary["partial"] and not is_partial(trainer):
            raise ValueError(
                f"`study.exits` must hold a whole sweep, but {self.exits} is of a trial run; test it without limits."
            )
        if list(sweep.label_names) != list(module.label_names):
            raise ValueError(
                f"`study.exits` must be of {module.task.labels_in_words}, but {self.exits} has "
                f"{task_of(sweep.label_names).labels_in_words}; test both on the same data."
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        split = next(name for name in data.test_splits if name != "calibration")
        found = sweep.table.of_split(split).sample_id if split in sweep.table.splits else np.arange(0)
        if not is_partial(trainer) and not np.array_equal(found, np.sort(data.rows(split).sample_id)):
            raise ValueError(
                f"`study.exits` must be a run over the same rows, but {self.exits} has {len(found)} rows with "
                f"other ids in the split {split}; test both on the same data."
            )
        return load_network(sweep, {}, str(module.device)), sweep.table


def units_of(data: Any, network: StagedModel, split: str) -> dict[int, Any]:
    """What the executor is given for each row of a split, by ``sample_id``.

    Sources where all tiers write; where a classifier reads the unit as it is, a writer's tier puts it into its form.
    """
    rows = data.rows(split)
    if network.writes and rows.sources is not None and all(tier.generates for tier in network.tiers):
        return dict(zip(rows.sample_id.tolist(), rows.sources, strict=True))
    for tier in network.tiers:
        if tier.generates:
            tier.source_form = data.source_form
    pairs = zip(rows.sample_id.tolist(), rows.units(), strict=True)
    return {identity: unit if len(unit) > 1 else unit[0] for identity, unit in pairs}


def sweep_of(trainer: Trainer) -> ThresholdSweep:
    """The sweep of this run."""
    (sweep,) = (each for each in trainer.callbacks if isinstance(each, ThresholdSweep))  # type: ignore[attr-defined]
    return sweep


def sweep_folder(trainer: Trainer) -> Path:
    """Where the sweep of this run has been written."""
    sweep = sweep_of(trainer)
    return Path(sweep.out) if sweep.out else Path(trainer.default_root_dir) / "sweep"
