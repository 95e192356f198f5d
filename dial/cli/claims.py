"""A run folder's claim: which command, configuration and data it belongs to, and who is at work in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import instantiate_class

from callbacks.tier_export import is_finished, is_partial
from callbacks.trained_rows import check_rows, trained_rows
from dial.cli.inputs import check_models, model_contents, read_inputs, write_inputs
from dial.cli.run_folder import claim_run_folder
from dial.files import read_json
from dial.locks import alone


class Finished(Exception):  # noqa: N818  (no error)
    """The run folder holds the finished results of this very configuration."""


class Claim(Callback):
    """Writes the configuration into the run folder when there is something in it to protect, with what it rests on.

    That is the first checkpoint of a fit, and the end of any other command. A command that fails before leaves no
    configuration that would stand in the way of the corrected one; neither does a trial run over a part of the rows.
    """

    def __init__(self, run: Path, command: str, config: dict[str, Any]) -> None:
        self.run, self.command, self.config = run, command, config
        self.models = model_contents(config) if command == "fit" else {}

    def _claim(self, trainer: Trainer) -> None:
        trial = is_partial(trainer) and self.command != "fit"
        if not trainer.is_global_zero or trial:
            return
        if not (self.run / f"config-{self.command}.yaml").is_file():
            data = trainer.datamodule if self.command == "fit" else None  # type: ignore[attr-defined]
            write_inputs(self.run, self.command, trained_rows(data), self.models)
        claim_run_folder(self.run, self.command, self.config)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Of a fit."""
        self._claim(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning calls this where the command did not fail."""
        self._claim(trainer)


def one_at_a_time(run: Path, command: str) -> AbstractContextManager[None]:
    """Keeps a second start of a command out of its run folder.

    Raises:
        ValueError: another process is at work there.
    """
    refusal = (
        f"`--run` {run} must be of no other `dial {command}`, but one is at work there; wait for it, end it, or name "
        "another folder."
    )
    return alone(run / f".{command}.lock", refusal)


def check_inputs(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with models of other contents than a fit began with, and say so where the fit has finished.

    Args:
        run: folder of a fit of this configuration.
        config: as plain values.

    Raises:
        ValueError: models have changed or, where the fit has finished, rows.
        Finished: there is nothing left to do.
    """
    before = read_inputs(run, "fit")
    check_models(before.get("models") or {}, model_contents(config), run)
    if not is_finished(run / "tier"):
        return
    words = f"{run} holds the finished run of this configuration; remove it to train again"
    try:
        data = instantiate_class((), dict(config["data"]))
        data.label_names, trained_rows(data)
    except (ValueError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise Finished(f"{words} (its data cannot be compared with the present one: {reason})") from error
    check_rows(before.get("rows") or rows_of_card(run / "tier/card.json"), data, f"`--run` {run}")
    raise Finished(words)


def rows_of_card(path: Path) -> dict[str, Any]:
    """What a card tells of the rows, for runs that did not note more."""
    card = read_json(path, "--run")
    known = {"label_names": card.get("label_names")}
    if card.get("train_fingerprint"):
        known["train"] = {"fingerprint": card["train_fingerprint"], "rows": card.get("train_rows", 0)}
    return known
