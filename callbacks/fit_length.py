"""How long a fit is where nobody says so: in optimiser steps, as a few epochs of a small set are too few of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.optimizers import SizedAdamW
from lightning_modules.training import TierModule, steps_of_epoch, training_steps


@dataclass(frozen=True)
class Length:
    """Length of a fit.

    Attributes:
        epochs: passes over the training rows.
        every: passes between two validations.
    """

    epochs: int
    every: int


class FitLength(Callback):
    """Gives a fit an end where neither ``trainer.max_epochs`` nor ``trainer.max_steps`` does.

    Large sets get ``epochs`` passes, with a validation after each. In a small set that would be too few steps: there
    each pass becomes as many passes as ``min_steps`` needs, still with one validation, so that early stopping, the
    choice of the best checkpoint and the stages of a policy see the same number of them as in a large set.

    At the start of every fit one line tells its length, batch and learning rate; checkpoints and the tier's card keep
    them, and a run that goes on keeps its length, with however many processes.

    Args:
        epochs: validations, and in large sets passes.
        min_steps: fewest optimiser steps.
        most_epochs: most passes that ``min_steps`` may lead to.

    Raises:
        ValueError: one of them is below 1.
    """

    def __init__(self, epochs: int = 3, min_steps: int = 300, most_epochs: int = 30) -> None:
        for name, value in (("epochs", epochs), ("min_steps", min_steps), ("most_epochs", most_epochs)):
            if value < 1:
                raise ValueError(f"`length.{name}` must be at least 1, but got {value}.")
        self.epochs, self.min_steps, self.most_epochs = epochs, min_steps, most_epochs
        self.chosen: Length | None = None
        self._spaced = False

    def choose(self, steps: int) -> Length:
        """Length for an epoch of so many optimiser steps.

        >>> FitLength(epochs=3, min_steps=300, most_epochs=30).choose(15), FitLength().choose(15_625)
        (Length(epochs=21, every=7), Length(epochs=3, every=1))
        """
        needed = -(-self.min_steps // (self.epochs * steps))
        every = max(1, min(needed, self.most_epochs // self.epochs))
        return Length(self.epochs * every, every)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose; the data module has its rows by now, and the optimiser is still to come."""
        endless = trainer.max_epochs in (None, -1) and trainer.max_steps == -1
        if stage != "fit" or not (endless or self.chosen):
            return
        if self.chosen is None:
            interval = trainer.val_check_interval
            whole = interval is None or (isinstance(interval, float) and interval == 1.0)
            self._spaced = trainer.check_val_every_n_epoch == 1 and whole  # else the user has said when to validate
        self._set(trainer, self.choose(steps_of_epoch(trainer)))

    def _set(self, trainer: Trainer, length: Length) -> None:
        self.chosen = length
        trainer.fit_loop.max_epochs = length.epochs
        if self._spaced:
            trainer.check_val_every_n_epoch = length.every

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what was chosen, and the settings that led there."""
        if isinstance(pl_module, TierModule):
            checkpoint["fit"] = fit_numbers(trainer, pl_module)
        if self.chosen is not None:
            checkpoint["length"] = {"settings": self._settings(), "chosen": asdict(self.chosen)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up the length of a run that goes on; Lightning calls this before it builds the optimiser."""
        before = checkpoint.get("length")
        if trainer.state.fn == "fit" and before and self.chosen and before["settings"] == self._settings():
            self._set(trainer, Length(**before["chosen"]))

    def _settings(self) -> dict[str, int]:
        return {"epochs": self.epochs, "min_steps": self.min_steps, "most_epochs": self.most_epochs}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print one line."""
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector
        if trainer.is_global_zero and not trial and isinstance(pl_module, TierModule):
            print(length_line(fit_numbers(trainer, pl_module), self.chosen), flush=True)


def fit_numbers(trainer: Trainer, module: TierModule) -> dict[str, Any]:
    """What a fit goes by, as plain values: rows, rows per step, steps, warm-up, peak learning rate, and its origin."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    optimizer = trainer.optimizers[0]
    by_width = isinstance(optimizer, SizedAdamW) and optimizer.by_width
    return {
        "train_rows": len(data.rows("train")),
        "rows_per_step": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        "steps": training_steps(trainer),
        "steps_of_epoch": steps_of_epoch(trainer),
        "warmup": module.warmup,
        "learning_rate": optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"]),
        "width": module.tier.model.config.hidden_size if by_width else None,
    }


def length_line(numbers: dict[str, Any], chosen: Length | None) -> str:
    """One line on :func:`fit_numbers`: each number, and the argument that sets it where it was chosen.

    >>> numbers = {"train_rows": 450, "rows_per_step": 32, "steps": 315, "steps_of_epoch": 15, "warmup": 0.1}
    >>> print(length_line({**numbers, "learning_rate": 1e-4, "width": 384}, Length(21, 7)))
    fit: 450 rows, 32 a step, 315 steps (21 epochs of 15, validated every 7; by rows, else --trainer.max_epochs), \
warm-up over 10 %, learning rate 0.0001 (by width 384, else --model.optimizer.init_args.lr)
    >>> print(length_line({**numbers, "learning_rate": 3e-4, "width": None}, None))
    fit: 450 rows, 32 a step, 315 steps (21 epochs of 15), warm-up over 10 %, learning rate 0.0003
    """
    steps, each = numbers["steps"], numbers["steps_of_epoch"]
    epochs = f"{steps / each:g}" if steps % each == 0 else f"{steps / each:.1f}"
    length = f"{epochs} epochs of {each:,}" if epochs != "1" else "1 epoch"
    if chosen is not None:
        spaced = f", validated every {chosen.every}" if chosen.every > 1 else ""
        length += f"{spaced}; by rows, else --trainer.max_epochs"
    width = numbers["width"]
    rate = f" (by width {width}, else --model.optimizer.init_args.lr)" if width else ""
    return (
        f"fit: {numbers['train_rows']:,} rows, {numbers['rows_per_step']:,} a step, {steps:,} steps ({length}), "
        f"warm-up over {100 * numbers['warmup']:g} %, learning rate {numbers['learning_rate']:g}{rate}"
    )
