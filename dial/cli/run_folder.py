"""Run folders: one configuration each, with what it rests on (models, rows), and one command at work in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import instantiate_class

from callbacks.checkpoints import OLDER, remove
from callbacks.resume import check_rows, trained_rows
from callbacks.tier_export import is_finished
from datamodules.checks import is_partial
from datamodules.scratch import remove_scratch
from dial.claims import alone, check_same, contents, place, same_place
from dial.files import atomic_write, read_json, write_json

# What may differ between two runs of one experiment without changing a number that it writes.
HARMLESS = (
    "config", "run", "verbose", "weights_only", "progress", "resume", "study", "trainer.enable_progress_bar",
    "trainer.logger", "trainer.max_time", "trainer.default_root_dir", "trainer.log_every_n_steps",
    "trainer.enable_model_summary", "trainer.profiler", "data.init_args.num_workers",
    "data.init_args.cache_dir", "checkpoint.dirpath",
)  # fmt: skip


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


def check_run_folder(run: Path, command: str, config: dict[str, Any]) -> bool:
    """Whether the run folder holds this configuration already.

    Args:
        run: the folder.
        command: ``fit``, ``test``, ...; each has its own configuration in a folder.
        config: the complete configuration, as plain values.

    Raises:
        ValueError: it holds results of another configuration; names the first difference.
    """
    path = run / f"config-{command}.yaml"
    if not path.is_file():
        return False
    folder = Path(read_inputs(run, command).get("folder") or Path.cwd())
    where = "" if folder == Path.cwd() else f" (its paths start from {folder})"
    check_same(
        f"`--run` {run} holds results of another configuration{where}",
        without(read_configuration(path)),
        without(config),
        "name another folder, or remove that one",
        same_place(folder),
    )
    return True


def read_configuration(path: Path) -> dict[str, Any]:
    """Content of ``config-<command>.yaml``.

    Raises:
        ValueError: it is damaged.
    """
    reason = "it holds no arguments"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        content, reason = None, " ".join(str(error).split())
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f"`--run` {path.parent} must hold a readable {path.name}, but that file is damaged: {reason[:200]}; "
            "restore it, or name another folder."
        )
    return content


def claim_run_folder(run: Path, command: str, config: dict[str, Any]) -> None:
    """Write ``config-<command>.yaml`` into the run folder, unless it is there already.

    Raises:
        ValueError: as :func:`check_run_folder`.
    """
    if not check_run_folder(run, command, config):
        with atomic_write(run / f"config-{command}.yaml") as scratch:
            scratch.write_text(yaml.safe_dump(config, sort_keys=False))


def without(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what is harmless."""
    config = copy.deepcopy(config)
    for dotted in HARMLESS:
        *parents, leaf = dotted.split(".")
        node: Any = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(leaf, None)
    return config


def remove_crumbs(run: Path) -> None:
    """Remove what a fit left in its run folder that nobody needs; no other fit may be at work there.

    That is what one left half-written that was killed, and the older checkpoint of one that has finished.
    """
    if is_finished(run / "tier"):
        remove(run / "checkpoints" / OLDER)
    for folder in (run, run / "checkpoints", run / "tier"):
        remove_scratch(folder)
    for path in run.glob("checkpoints/.*.part"):  # a folder of several ranks
        remove(path)


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


def read_inputs(run: Path, command: str) -> dict[str, Any]:
    """What was noted of an earlier command in a run folder; empty where nothing was.

    Raises:
        ValueError: the file is damaged.
    """
    path = inputs_file(run, command)
    return read_json(path, "--run") if path.is_file() else {}


def write_inputs(run: Path, command: str, rows: Mapping[str, Any], models: Mapping[str, str]) -> None:
    """Note them: the present folder, rows as :func:`callbacks.resume.trained_rows` gives them, and models."""
    write_json(inputs_file(run, command), {"folder": str(Path.cwd()), "rows": rows, "models": models})


def inputs_file(run: Path, command: str) -> Path:
    """Where they are noted."""
    return run / f"inputs-{command}.json"


def model_contents(config: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprint of every file and folder that the model's arguments name, by the argument (``model.teacher``).

    Models of the hub are not among them.
    """
    model = config.get("model") or {}
    named = {key: place(text, Path.cwd()) for key, text in _strings(model.get("init_args") or {})}
    return {f"model.{key}": contents(path) for key, path in named.items() if path is not None}


def check_models(before: Mapping[str, str], now: Mapping[str, str], run: Path) -> None:
    """Refuse models that have changed under the same path; those that are gone are not compared.

    Raises:
        ValueError: names the first argument.
    """
    for key, value in before.items():
        if now.get(key, value) != value:
            raise ValueError(
                f"`--run` {run} was trained with other contents of `--{key}`, which has changed since; restore it, or "
                "name another folder, or remove that one, to train with what is there now."
            )


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested values, with its place; of a tier at a share of its MACs the search that tells it, too."""
    if isinstance(value, str):
        yield key, value
    if isinstance(value, dict) and isinstance(value.get("lengths"), int | float) and "path" in value:
        yield f"{key}.lengths".lstrip("."), f"{value['path']}/lengths.json"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _strings(item, f"{key}.{name}" if key else str(name))
