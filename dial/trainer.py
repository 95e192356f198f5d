"""`dial fit|validate|test|predict`: LightningCLI over the modules, data modules and callbacks."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import callbacks
import datamodules  # noqa: F401  (what is imported, YAML can name without a dotted path)
from callbacks.resume import LAST
from dial.runs import check_run_folder, claim_run_folder
from lightning_modules import Cascade, Classifier

MODULES = {module.__name__: module for module in (Classifier, Cascade)}

LINKS = ("label_names", "metrics")


class Claim(Callback):
    """Writes the configuration into the run folder once everything has been built and checked.

    A command that fails before leaves no configuration that would stand in the way of the corrected one.
    """

    def __init__(self, run: Path, command: str, config: dict[str, Any]) -> None:
        self.run, self.command, self.config = run, command, config

    def _claim(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            claim_run_folder(self.run, self.command, self.config)

    on_fit_start = on_test_start = on_predict_start = _claim

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of `dial validate`; within a fit there is nothing left to do."""
        if self.command == "validate":
            self._claim(trainer, pl_module)


class DialCLI(LightningCLI):
    """One trainer for every method. What must always be there is an argument group, so that no list can drop it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, our callbacks, and what the module learns from the data."""
        parser.add_argument("--run", type=str, default="runs/latest", help="Folder that this run writes into.")
        parser.add_lightning_class_args(callbacks.ThresholdSweep, "sweep")
        parser.add_lightning_class_args(callbacks.TierExport, "export")
        parser.add_lightning_class_args(callbacks.PredictionWriter, "predictions")
        parser.add_lightning_class_args(callbacks.Resume, "resume")
        parser.add_lightning_class_args(callbacks.LogProgress, "progress")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        monitor = {"monitor": "validation/quality", "mode": "max"}
        checkpoint = {**monitor, "filename": "best", "auto_insert_metric_name": False, "enable_version_counter": False}
        parser.set_defaults({f"checkpoint.{key}": value for key, value in checkpoint.items()})
        parser.set_defaults({f"early_stopping.{key}": value for key, value in {**monitor, "patience": 3}.items()})
        for name in LINKS:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Point everything that writes at the run folder, and refuse a folder that holds another configuration."""
        config = self.config[self.subcommand]
        run = config.run
        config.trainer.default_root_dir = run
        if not sys.stdout.isatty():
            config.trainer.enable_progress_bar = False  # LogProgress prints lines instead
        config.checkpoint.dirpath = str(Path(run) / "checkpoints")
        if config.trainer.logger is None:
            config.trainer.logger = {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": run, "name": "logs"},
            }
            config.trainer.logger = (
                self._parser(self.subcommand)
                .parse_object({"trainer": {"logger": config.trainer.logger}}, cfg_base=config, defaults=False)
                .trainer.logger
            )
        if not config.trainer.fast_dev_run:
            dumped = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_link_targets=False))
            check_run_folder(Path(run), str(self.subcommand), dumped)
            self.trainer_defaults["callbacks"] = [Claim(Path(run), str(self.subcommand), dumped)]

    def before_fit(self) -> None:
        """Go on from the run's own last checkpoint, if it was killed before it finished."""
        config = self.config_init[self.subcommand]
        last = Path(config.run) / "checkpoints" / LAST
        if config.ckpt_path is None and last.is_file() and not config.trainer.fast_dev_run:
            if rank_zero_only.rank == 0:
                print(f"resuming from {last}")
            config.ckpt_path = str(last)

    def before_test(self) -> None:
        """The sweep prints a table of its own; Lightning's would show each number once per split."""
        self.config_init[self.subcommand].verbose = False

    def _parse_ckpt_path(self) -> None:
        """Let Lightning merge the checkpoint's hyperparameters, but refuse where they contradict what was typed."""
        typed = flat(self.config[self.config.subcommand].get("model"))
        defaults = flat(self._defaults_of_model())
        super()._parse_ckpt_path()
        merged = flat(self.config[self.config.subcommand].get("model"))
        for key, value in typed.items():
            if key in merged and merged[key] != value and value != defaults.get(key):
                raise ValueError(
                    f"`--model.{key}` is {value!r}, but the checkpoint `--ckpt_path` was trained with {merged[key]!r}, "
                    "and a checkpoint's hyperparameters win; leave the argument out, or name another checkpoint."
                )

    def _defaults_of_model(self) -> dict[str, Any]:
        """Default of every argument of the model's class: a value that equals it was not necessarily typed."""
        model = self.config[self.config.subcommand].get("model")
        name = str(model.class_path).rsplit(".", 1)[-1]
        cls = MODULES.get(name)
        if cls is None:
            return {}
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {"init_args": {p.name: p.default for p in parameters if p.default is not p.empty}}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested configuration by dotted key.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if hasattr(config, "as_dict"):
        config = config.as_dict()
    if not isinstance(config, dict):
        return {}
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        nested = value.as_dict() if hasattr(value, "as_dict") else value
        leaves.update(
            flat(nested, f"{prefix}{key}.") if isinstance(nested, dict) and nested else {f"{prefix}{key}": nested}
        )
    return leaves


def run_trainer_command(args: list[str]) -> None:
    """Run one of Lightning's commands with our defaults."""
    sys.argv = [sys.argv[0], *args]  # DDP starts the same command again; LightningCLI warns where argv and args differ
    quiet_lightning()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers forked into loader workers would warn
    DialCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # the module takes an OptimizerCallable
        save_config_callback=None,  # the run folder keeps the configuration, and compares
        seed_everything_default=0,
        trainer_class=Trainer,
        trainer_defaults={"use_distributed_sampler": False, "deterministic": True, "log_every_n_steps": 20},
    )


def quiet_lightning() -> None:
    """Silence what Lightning says about itself: nothing that a user of `dial` could act on."""
    warnings.filterwarnings("ignore", message=".*(LeafSpec|treespec).*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Precision bf16-mixed is not supported by the model summary.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not re.search(r"litlogger|litmodels|TPU available", record.getMessage())
    )
