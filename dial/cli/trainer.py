"""`dial fit|validate|test|predict`: LightningCLI over the modules, data modules and callbacks."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

import callbacks
import datamodules
import lightning_modules
from callbacks.checkpoints import newest, read_checkpoint
from callbacks.ending import Ending
from callbacks.resume import check_rows
from callbacks.slenderise import TARGETS
from dial.cli.distilled import ARGUMENTS, renamed, with_distillation
from dial.cli.interrupts import Interrupts, Stopped
from dial.cli.parsing import (
    NO_VALIDATION,
    check_limits,
    check_linked,
    check_order,
    missing_monitor,
    one_line,
    typed_arguments,
)
from dial.cli.run_folder import Claim, Finished, check_inputs, check_run_folder, one_at_a_time, remove_crumbs
from dial.cli.stopping import Stoppable, failing_together, starts_run
from dial.machine import slow_bf16
from dial.tiers.backends.lowered import replace_emulated
from dial.tiers.reading import reason_of

for _package in (lightning_modules, datamodules):
    for _name in _package.__all__:
        getattr(_package, _name)  # imported on first use; now YAML can name it

LINKS = ("label_names", "metrics")
# Always there, each set by arguments of its own; in the order in which the trainer calls them.
GROUPS = {
    "sweep": callbacks.ThresholdSweep,
    "study": callbacks.MeasuredStudy,
    "length": callbacks.FitLength,
    "slenderise": callbacks.Slenderise,
    "export": callbacks.TierExport,
    "predictions": callbacks.PredictionWriter,
    "resume": callbacks.Resume,
    "progress": callbacks.LogProgress,
}


class DialCLI(LightningCLI):
    """One trainer for every method. What must always be there is an argument group, so that no list can drop it.

    Args:
        stack: closed when the command ends; takes the lock of the run folder.
        stoppable: ends the command where a signal says so.
        settings: of LightningCLI.
    """

    def __init__(self, stack: ExitStack, stoppable: Stoppable, **settings: Any) -> None:
        self.stack, self.stoppable = stack, stoppable
        super().__init__(LightningModule, LightningDataModule, **settings)

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
        """Parse; what cannot be parsed becomes one line, and so does what a configuration file would override.

        Raises:
            ValueError: naming the argument.
        """
        check_order(sys.argv[2:])
        check_linked(sys.argv[2:], LINKS)
        try:
            self.config = parser.parse_args(with_distillation(sys.argv[1:]))
        except ArgumentError as error:
            raise ValueError(one_line(str(error), sys.argv[1])) from error

    def before_instantiate_classes(self) -> None:
        """Point everything that writes at the run folder, and refuse a folder that holds another configuration.

        Raises:
            ValueError: the folder holds results of another configuration or data, another process is at work there, or
                a folder was given that `--run` sets.
            Finished: it holds the finished fit of this configuration.
        """
        config, command = self.config[self.subcommand], str(self.subcommand)
        run = Path(config.run)
        check_callbacks(config.trainer.callbacks)
        if command == "fit":
            check_limits(config)
        dumped = yaml.safe_load(self._parser(command).dump(config, skip_link_targets=False))
        if command == "fit" and is_inside(config.get("ckpt_path"), run):
            dumped["ckpt_path"] = None
        if command != "fit" or all(dumped["slenderise"].get(name) is None for name in TARGETS):
            del dumped["slenderise"]  # does nothing
        endless = config.trainer.get("max_epochs") in (None, -1) and config.trainer.get("max_steps", -1) == -1
        if command == "fit" and endless:
            config.trainer.max_epochs = -1  # FitLength gives it an end, where Lightning would take 1000
        else:
            del dumped["length"]
        on_cpu = [callbacks.CheapDropout(), callbacks.TrimmedHeap()]
        self.trainer_defaults["callbacks"] = [Ending(), self.stoppable, *on_cpu]
        if not config.trainer.fast_dev_run:
            self._enter(run, command, dumped)
            self.trainer_defaults["callbacks"] += [Claim(run, command, dumped), callbacks.MajorityBaseline()]
        for key, value in (("trainer.default_root_dir", run), ("checkpoint.dirpath", run / "checkpoints")):
            if config.get(key) not in (None, str(value)):
                raise ValueError(f"`--{key}` must be left out, as `--run` {run} sets it, but got {config.get(key)}.")
            config[key] = str(value)
        if not sys.stdout.isatty():
            config.trainer.enable_progress_bar = False  # LogProgress prints lines instead

    def _enter(self, run: Path, command: str, config: dict[str, Any]) -> None:
        """Take the run folder, if it is free and holds nothing else."""
        known = check_run_folder(run, command, config)
        if starts_run():
            self.stack.enter_context(one_at_a_time(run, command))
        if known and command == "fit":
            if starts_run():
                remove_crumbs(run)
            check_inputs(run, config)

    def instantiate_trainer(self, **settings: Any) -> Trainer:
        """The trainer, with a table of its own as logger where none was asked for."""
        if self._get(self.config, "trainer.logger") is None:
            settings["logger"] = CSVLogger(self._get(self.config, "run"), name="logs")
        return super().instantiate_trainer(**settings)

    def before_fit(self) -> None:
        """Go on from the run's own last checkpoint, if it was killed before it finished.

        What cannot be counted or made slender is refused first, before a text is read.

        Raises:
            ValueError: all its checkpoints are damaged, it was trained on other rows, or nothing is left to validate.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            if isinstance(callback, callbacks.Slenderise):
                callback.setup(self.trainer, self.model, "fit")
            elif isinstance(callback, callbacks.TierExport):
                callback.count(self.model)
        config = self.config_init[self.subcommand]
        if config.trainer.fast_dev_run:
            return
        if config.trainer.limit_val_batches == 0 and config.early_stopping.monitor.startswith("validation/"):
            raise ValueError(NO_VALIDATION)
        what = f"`--ckpt_path` {config.ckpt_path}"
        if config.ckpt_path is None:
            last = newest(Path(config.run) / "checkpoints")
            if last is not None:
                rank_zero_info(f"resuming from {last}")
                config.ckpt_path, what = str(last), f"`--run` {config.run}"
        if config.ckpt_path is not None and Path(config.ckpt_path).exists():
            rows = read_checkpoint(Path(config.ckpt_path), "--ckpt_path").get("rows") or {}
            check_rows(rows, self.datamodule, what)

    def after_fit(self) -> None:
        """A finished run needs no older checkpoint."""
        config = self.config_init[self.subcommand]
        if self.trainer.is_global_zero and not config.trainer.fast_dev_run:
            remove_crumbs(Path(config.run))

    def before_test(self) -> None:
        """The sweep prints a table of its own; Lightning's would show each number once per split."""
        self.config_init[self.subcommand].verbose = False

    def _run_subcommand(self, subcommand: str) -> None:
        device = self.trainer.strategy.root_device
        if hasattr(self.model, "tiers_at_work"):
            spare_emulation(self.model, subcommand, device)
        if self.trainer.is_global_zero:
            slow_bf16([str(self.trainer.precision)], device)
        with failing_together(self.trainer):
            super()._run_subcommand(subcommand)

    def _set_seed(self) -> None:
        """Seed everything.

        Raises:
            ValueError: the seed is none.
        """
        seed = self.config[self.config.subcommand].get("seed_everything")
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            raise ValueError(f"`--seed_everything` must be a number from 0 to {2**32 - 1}, but got {seed}.")
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Let Lightning put the checkpoint's hyperparameters over the model's, but not over what was typed.

        Raises:
            ValueError: the checkpoint is damaged, or a typed argument of the model has another value in it.
        """
        command = self.config.subcommand
        given = plain_model(self.config[command])
        path = self.config[command].get("ckpt_path")
        content = read_checkpoint(Path(path), "--ckpt_path") if path and Path(path).exists() else {}
        try:
            self._take_hyperparameters(dict(content.get("hyper_parameters", {})))
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

    def _take_hyperparameters(self, given: dict[str, Any]) -> None:
        """What LightningCLI does with those of a checkpoint; in older ones a Classifier may have a teacher."""
        given.pop("_instantiator", None)
        if not given:
            return
        command = self.config.subcommand
        name = given.pop("_class_path", None)
        if name is not None:
            old = {"class_path": name, "init_args": given}
            taught = command == "fit" and any(given.get(argument) is not None for argument in ARGUMENTS[:2])
            model = renamed(old, taught)
            given = {"class_path": model["class_path"], "dict_kwargs": model["init_args"]}
        self.config = self.parser.parse_object({command: {"model": given}}, self.config)


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


def run_trainer_command(args: list[str]) -> int:
    """Run one of Lightning's commands with our defaults; returns the exit code: 130 or 143 where a signal ended it.

    Raises:
        ValueError: bad input, in one line.
    """
    args = ["--help" if word == "--help=all" else word for word in args]
    sys.argv = [sys.argv[0], *args]  # DDP starts the same command again; LightningCLI warns where argv and args differ
    quiet_lightning()
    # Nothing reads it, and it costs 2 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers forked into loader workers would warn
    with ExitStack() as stack, Interrupts(Stopped) as interrupts:
        stoppable = Stoppable(interrupts)
        try:
            with errors_in_one_line():
                DialCLI(
                    stack,
                    stoppable,
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
        except BaseException:
            # Also where something else failed since: a loader's worker got the same signal, say.
            if interrupts.arrived is None:
                raise
            if starts_run():
                print(stoppable.parting_words(args[0]), file=sys.stderr)
            return 128 + interrupts.arrived
    return 0


def spare_emulation(module: Any, subcommand: str, device: torch.device) -> None:
    """Have tiers that do not learn computed in float32 where this machine would emulate their bf16.

    Args:
        module: with ``tiers_at_work``.
        subcommand: of `dial`; in a fit the network's tiers learn, and teachers are asked for hidden states as well.
        device: where they run.
    """
    learning = module.network.tiers if subcommand == "fit" else ()
    at_work = [tier for tier in module.tiers_at_work if all(tier is not other for other in learning)]
    replace_emulated(at_work, device, in_place=subcommand == "fit")


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turns what Lightning and torch raise about bad input into a ValueError that names the argument."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except TypeError as error:
        if str(error).startswith("`devices`"):
            raise ValueError(str(error).replace("`devices`", "`--trainer.devices`", 1)) from error
        raise
    except RuntimeError as error:
        if str(error).startswith("Error(s) in loading state_dict"):
            raise ValueError(f"`--ckpt_path` must be a checkpoint of this model and data; {error}") from error
        if str(error).startswith("Early stopping conditioned on metric"):
            raise ValueError(missing_monitor(str(error))) from error
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
