"""Checkpoints from which a killed run goes on bit by bit as if it had never been killed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.checkpoints import LAST, write_whole
from callbacks.ending import validates_at_end
from lightning_modules.rows import gather
from lightning_modules.training import TierModule, stopped_early

ROLES = ("train", "validation")


def trained_rows(data: Any) -> dict[str, Any]:
    """Class names, and fingerprint and number of the rows to train and to choose checkpoints on, as plain values.

    Empty for a data module that has no fingerprints.
    """
    if not hasattr(data, "fingerprint"):
        return {}
    rows = {role: {"fingerprint": data.fingerprint(role), "rows": len(data.rows(role))} for role in ROLES}
    return {"label_names": list(data.label_names), **rows}


def check_rows(before: Mapping[str, Any], data: Any, run: str) -> None:
    """Refuse to go on with other rows than a run began with.

    Args:
        before: :func:`trained_rows` of the run; empty where nobody noted them.
        data: the data module now.
        run: how the user calls what was trained.

    Raises:
        ValueError: texts, labels, their order or the names of the classes differ.
    """
    now = trained_rows(data) if before else {}
    for key in now:
        if key not in before or before[key] == now[key]:
            continue
        if key == "label_names":
            what = f"the classes were {', '.join(before[key])} and are {', '.join(now[key])}"
        else:
            counts = before[key]["rows"], now[key]["rows"]
            what = f"the {key} rows are others ({counts[0]:,} then, {counts[1]:,} now)"
        raise ValueError(
            f"{run} was trained on other data: {what}; restore the data, or name another folder, or remove that one, "
            "to train on what is there now."
        )


class Resume(Callback):
    """Saves ``checkpoints/last.ckpt`` every so many steps and at the end, with the random state of every process.

    A run whose training has come to its end does not train again when it is called again, whatever failed after that.

    Lightning restores weights, optimiser, schedule and counters. Two things it does not: the position inside the epoch
    (the data module's loader restores that) and the random numbers that dropout draws next (this callback).

    The checkpoint before is kept as ``checkpoints/previous.ckpt``. Each tells which rows it was trained on.

    Args:
        every_n_steps: optimiser steps between two checkpoints.

    Attributes:
        save_now: tells whether there is reason to save now, such as a signal that ends the run.
        saved_at: step of the newest checkpoint; None before the training has started.
    """

    saved_at: int | None

    def __init__(self, every_n_steps: int = 200) -> None:
        if every_n_steps < 1:
            raise ValueError(f"`resume.every_n_steps` must be at least 1, but got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.save_now: Callable[[], bool] = lambda: False
        self.saved_at, self._step = None, 0
        self._pending: dict[str, Any] | None = None
        self._stopped_early = False

    @staticmethod
    def folder(trainer: Trainer) -> Path:
        """Where the checkpoints of a run lie."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let no checkpoint be seen half-written."""
        write_whole(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step at which this process goes on."""
        self.saved_at = self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, where a step is due; collective, because every process contributes its random state.

        Never between two steps of accumulated gradients, and never just before a validation, which Lightning would
        leave out when it goes on from there: the next step's end serves as well.
        """
        step = trainer.global_step
        stepped, self._step = step != self._step, step
        every = trainer.val_check_batch or math.inf
        validates = trainer.is_last_batch or (batch_idx + 1) % every == 0 or validates_at_end(trainer)
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector
        due = step - (self.saved_at or 0) >= self.every_n_steps or self.save_now()
        if not due or not stepped or validates or trial:
            return
        trainer.save_checkpoint(self.folder(trainer) / LAST)
        self.saved_at = step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of a training that has come to it; one that was broken off goes on from its last checkpoint."""
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]
        self._stopped_early = stopped_early(trainer)
        if trial or not (self._stopped_early or is_through(trainer)):
            return
        if isinstance(pl_module, TierModule):
            pl_module.check_complete()
        trainer.save_checkpoint(self.folder(trainer) / LAST)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not go on with a run of one's own that was stopped early: only what comes after is left to do."""
        path = trainer.ckpt_path
        own = path is not None and Path(path).resolve().parent == self.folder(trainer).resolve()
        if self._stopped_early and own:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Random states by rank (gathered, so that rank 0's file holds all), and whether the run was stopped early."""
        return {"random": gather(random_state()), "stopped_early": self._stopped_early}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the states until the first batch: what Lightning does between here and there draws numbers too."""
        self._pending, self._stopped_early = state, state.get("stopped_early", False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what the training goes by: the rows, and the exit policy of a module that has one.

        The policy is no hyperparameter, but places stages and rates.
        """
        checkpoint["rows"] = trained_rows(getattr(trainer, "datamodule", None))
        policy = getattr(pl_module, "policy", None)
        if policy is not None:
            checkpoint["policy"] = policy.settings()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another policy; find the best checkpoint in a run folder that was moved.

        Raises:
            ValueError: the checkpoint is of another one.
        """
        if trainer.state.fn == "fit":
            relocate(checkpoint, trainer)
        before, policy = checkpoint.get("policy"), getattr(pl_module, "policy", None)
        if trainer.state.fn == "fit" and before and policy is not None and before != policy.settings():
            raise ValueError(
                f"`--model.policy` must be that of the checkpoint, {before}, to go on from there, but got "
                f"{policy.settings()}; restore it, or start a new run with a tier folder as `--model.path`."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the random state back, once, just before the first resumed step."""
        if self._pending is None:
            return
        states, self._pending = self._pending["random"], None
        if len(states) == trainer.world_size:  # another number of processes cannot go on bit by bit anyway
            set_random_state(states[trainer.global_rank])


def is_through(trainer: Trainer) -> bool:
    """Whether a fit did all its steps or epochs."""
    loop = trainer.fit_loop
    done = (loop.max_steps, trainer.global_step), (loop.max_epochs, trainer.current_epoch)
    return any(limit is not None and 0 <= limit <= reached for limit, reached in done)


def relocate(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Let the states of a run's own :class:`ModelCheckpoint` name the folder where the run lies now, in place.

    In another folder than before it would not know the best checkpoint any more.
    """
    path = getattr(trainer, "ckpt_path", None)
    if path is None or Path(path).resolve().parent != (folder := Resume.folder(trainer).resolve()):
        return
    for callback in trainer.checkpoint_callbacks:
        state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
        before = state.get("dirpath")
        if not isinstance(callback, ModelCheckpoint) or before is None or before == callback.dirpath:
            continue

        def here(path: str, before: str = before) -> str:
            return str(folder / Path(path).relative_to(before)) if Path(path).is_relative_to(before) else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        state.update({name: here(state[name]) for name in paths if state.get(name)})
        state["best_k_models"] = {here(path): score for path, score in state.get("best_k_models", {}).items()}
        state["dirpath"] = callback.dirpath


def random_state() -> dict[str, Any]:
    """States of the generators of torch (CPU and CUDA), numpy and Python, as plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  (what others may draw from)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Undo :func:`random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
