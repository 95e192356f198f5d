"""`dial fit|validate|test|predict`: LightningCLI over the modules, data modules and callbacks."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from argparse import ArgumentError
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_info

import callbacks
import datamodules
import lightning_modules
from callbacks.resume import LAST
from callbacks.slender_settings import TARGETS
from callbacks.tier_export import is_finished, is_partial
from dial.parsing import one_line, typed_arguments
from dial.processes import failing_together
from dial.runs import check_run_folder, claim_run_folder
from lightning_modules.inference.sources import reason_of

# Imported on first use; now YAML can name them.
lightning_modules.Cascade, lightning_modules.Classifier, lightning_modules.MultiExit  # noqa: B018
datamodules.GLUEDataModule, datamodules.GradedSentimentDataModule, datamodules.TextDataModule  # noqa: B018

LINKS = ("label_names", "metrics")
# Always there, each set by arguments of its own; in the order in which the trainer calls them.
GROUPS = {
    "sweep": callbacks.ThresholdSweep,
    "study": callbacks.MeasuredStudy,
    "slenderise": callbacks.Slenderise,
    "export": callbacks.TierExport,
    "predictions": callbacks.PredictionWriter,
    "resume": callbacks.Resume,
    "progress": callbacks.LogProgress,
}


class Finished(Exception):  # noqa: N818  (no error)
    """The run folder holds the finished results of this very configuration."""


class Claim(Callback):
    """Writes the configuration into the run folder when there is something in it to protect.

    That is the first checkpoint of a fit, and the end of any other command. A command that fails before leaves no
    configuration that would stand in the way of the corrected one; neither does a trial run over a part of the rows.
    """

    def __init__(self, run: Path, command: str, config: dict[str, Any]) -> None:
        self.run, self.command, self.config = run, command, config

    def _claim(self, trainer: Trainer) -> None:
        trial = is_partial(trainer) and self.command != "fit"
        if trainer.is_global_zero and not trial:
            claim_run_folder(self.run, self.command, self.config)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Of a fit."""
        self._claim(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning calls this where the command did not fail."""
        self._claim(trainer)


class Terminable(Callback):
    """Lets SIGTERM end a command that trains nothing: Lightning's handler only acts at the end of a training step."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace the handler that Lightning has set by now."""
        if stage != "fit" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class DialCLI(LightningCLI):
    """One trainer for every method. What must always be there is an argument group, so that no list can drop it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, our callbacks, and what the module learns from the data."""
        parser.add_argument("--run", type=str, default="runs/latest", help="Folder that this run writes into.")
        for group, kind in GROUPS.items():
            parser.add_lightning_class_args(kind, group)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        monitor = {"monitor": "validation/quality", "mode": "max"}
        checkpoint = {**monitor, "filename": "best", "auto_insert_metric_name": False, "enable_version_counter": False}
        parser.set_defaults({f"checkpoint.{key}": value for key, value in checkpoint.items()})
        parser.set_defaults({f"early_stopping.{key}": value for key, value in {**monitor, "patience": 3}.items()})
        for name in LINKS:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; what cannot be parsed becomes one line.

        Raises:
            ValueError: naming the argument.
        """
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise ValueError(one_line(str(error), sys.argv[1])) from error

    def before_instantiate_classes(self) -> None:
        """Point everything that writes at the run folder, and refuse a folder that holds another configuration.

        Raises:
            ValueError: the folder holds results of another configuration, or a folder was given that `--run` sets.
            Finished: it holds the finished fit of this configuration.
        """
        config, command = self.config[self.subcommand], str(self.subcommand)
        run = Path(config.run)
        check_callbacks(config.trainer.callbacks)
        dumped = yaml.safe_load(self._parser(command).dump(config, skip_link_targets=False))
        if command == "fit" and is_inside(config.get("ckpt_path"), run):
            dumped["ckpt_path"] = None
        if command != "fit" or all(dumped["slenderise"].get(name) is None for name in TARGETS):
            del dumped["slenderise"]  # does nothing
        if not config.trainer.fast_dev_run:
            known = check_run_folder(run, command, dumped)
            if known and command == "fit" and is_finished(run / "tier"):
                raise Finished(f"{run} holds the finished run of this configuration; remove it to train again")
            self.trainer_defaults["callbacks"] = [
                Claim(run, command, dumped),
                Terminable(),
                callbacks.MajorityBaseline(),
            ]
        for key, value in (("trainer.default_root_dir", run), ("checkpoint.dirpath", run / "checkpoints")):
            if config.get(key) not in (None, str(value)):
                raise ValueError(f"`--{key}` must be left out, as `--run` {run} sets it, but got {config.get(key)}.")
            config[key] = str(value)
        if not sys.stdout.isatty():
            config.trainer.enable_progress_bar = False  # LogProgress prints lines instead
        if config.trainer.logger is None:
            config.trainer.logger = self._csv_logger(config)

    def _csv_logger(self, config: Any) -> Any:
        logger = {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": config.run, "name": "logs"},
        }
        parser = self._parser(str(self.subcommand))
        parsed = parser.parse_object({"trainer": {"logger": logger}}, cfg_base=config, defaults=False)
        return parsed.trainer.logger

    def before_fit(self) -> None:
        """Go on from the run's own last checkpoint, if it was killed before it finished."""
        config = self.config_init[self.subcommand]
        last = Path(config.run) / "checkpoints" / LAST
        if config.ckpt_path is None and last.is_file() and not config.trainer.fast_dev_run:
            rank_zero_info(f"resuming from {last}")
            config.ckpt_path = str(last)

    def before_test(self) -> None:
        """The sweep prints a table of its own; Lightning's would show each number once per split."""
        self.config_init[self.subcommand].verbose = False

    def _run_subcommand(self, subcommand: str) -> None:
        with failing_together(self.trainer):
            super()._run_subcommand(subcommand)

    def _parse_ckpt_path(self) -> None:
        """Let Lightning put the checkpoint's hyperparameters over the model's, but not over what was typed.

        Raises:
            ValueError: a typed argument of the model has another value in the checkpoint.
        """
        command = self.config.subcommand
        given = plain_model(self.config[command])
        try:
            super()._parse_ckpt_path()
        except ArgumentError as error:
            raise ValueError(
                f"`--ckpt_path` {self.config[command].ckpt_path} must be a checkpoint of this model; "
                f"{one_line(str(error), command)}"
            ) from error
        except (UnpicklingError, EOFError, LookupError, RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(
                f"`--ckpt_path` must be a checkpoint of `dial fit`, but {self.config[command].ckpt_path} is damaged or "
                f"none: {reason_of(error)}."
            ) from error
        merged = plain_model(self.config[command])
        for name in ("class_path", *typed_arguments(sys.argv[2:], "model")):
            before, after = given.get(name), merged.get(name)
            if name in given and before != after:
                raise ValueError(
                    f"`--model.{name}` is {before!r}, but the checkpoint of `--ckpt_path` was trained with {after!r}, "
                    "and a checkpoint's hyperparameters win; leave the argument out, or name another checkpoint."
                )


def check_callbacks(given: Any) -> None:
    """Raise a ValueError if `trainer.callbacks` names a callback that has an argument group."""
    given = given if isinstance(given, list) else [given] if given else []
    for callback in given:
        name = str(callback.get("class_path", "")).rpartition(".")[2] if hasattr(callback, "get") else ""
        for group, kind in GROUPS.items():
            if name == kind.__name__:
                raise ValueError(
                    f"`--trainer.callbacks` must leave out {name}, which is always there; set it with `--{group}.…`."
                )


def plain_model(config: Any) -> dict[str, Any]:
    """Class and arguments of the model in a configuration, as plain values by name."""
    model = config.get("model")
    if model is None or "class_path" not in model:
        return {}
    values = model.get("init_args") or {}
    values = values.as_dict() if hasattr(values, "as_dict") else values
    return {"class_path": model["class_path"], **values}


def is_inside(path: str | None, folder: Path) -> bool:
    """Whether a path lies in a folder."""
    return path is not None and Path(path).resolve().is_relative_to(folder.resolve())


def run_trainer_command(args: list[str]) -> None:
    """Run one of Lightning's commands with our defaults.

    Raises:
        ValueError: bad input, in one line.
    """
    sys.argv = [sys.argv[0], *args]  # DDP starts the same command again; LightningCLI warns where argv and args differ
    quiet_lightning()
    # Nothing reads it, and it costs 2 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers forked into loader workers would warn
    try:
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
            parser_kwargs={"exit_on_error": False},
        )
    except Finished as finished:
        print(finished)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except RuntimeError as error:
        if str(error).startswith("Error(s) in loading state_dict"):
            raise ValueError(f"`--ckpt_path` must be a checkpoint of this model and data; {error}") from error
        if str(error).startswith("Early stopping conditioned on metric"):
            raise ValueError(
                "`--trainer.limit_val_batches` must leave validation rows for early stopping and for the choice of the "
                "best checkpoint, but no metric came of it; raise it."
            ) from error
        raise


def quiet_lightning() -> None:
    """Silence what Lightning says about itself: nothing that a user of `dial` could act on."""
    warnings.filterwarnings("ignore", message=".*(LeafSpec|treespec).*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Precision bf16-mixed is not supported by the model summary.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="The dirpath has changed from.*")
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).addFilter(
            lambda record: (
                not re.search(r"litlogger|litmodels|TPU available|`weights_only` was not set", record.getMessage())
            )
        )
