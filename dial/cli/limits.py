"""Numbers of a fit that Lightning takes and that leave nothing to train, or end in its own arithmetic."""

from __future__ import annotations

from typing import Any

LEAST = {
    "trainer.max_epochs": 1,
    "trainer.max_steps": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
    "early_stopping.patience": 0,
}
POSITIVE = ("trainer.limit_train_batches", "trainer.val_check_interval")
UNLIMITED = ("trainer.max_epochs", "trainer.max_steps")  # -1 says so


def check_limits(config: Any) -> None:
    """Refuse them before anything is read.

    Args:
        config: of `dial fit`; ``get`` takes dotted names.

    Raises:
        ValueError: names the argument.
    """
    for name in (*LEAST, *POSITIVE):
        value = config.get(name)
        if not isinstance(value, int | float) or (name in UNLIMITED and value == -1):
            continue  # not given, or a time
        if name in POSITIVE and not value > 0:
            raise ValueError(f"`--{name}` must be above 0, but got {value}.")
        if name in LEAST and not value >= LEAST[name]:
            endless = ", or -1 for no limit" if name in UNLIMITED else ""
            raise ValueError(f"`--{name}` must be at least {LEAST[name]}{endless}, but got {value}.")
