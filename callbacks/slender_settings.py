"""What the arguments of a slenderisation must be, and errors that call them as they are typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule

from dial.models.multi_exit import MultiExitForSequenceClassification

TARGETS = ("compression", "heads", "intermediate", "embedding_rank")
ARGUMENTS = "compression|heads|intermediate|embedding_rank|rank|start|stop|prunings|window"


@contextmanager
def as_typed() -> Iterator[None]:
    """Let errors inside call the arguments as the command line does.

    >>> with as_typed():
    ...     raise ValueError("`heads` must be at least 1, but got 0.")
    Traceback (most recent call last):
    ValueError: `slenderise.heads` must be at least 1, but got 0.
    """
    try:
        yield
    except ValueError as error:
        text = re.sub(rf"`({ARGUMENTS})`", r"`slenderise.\1`", str(error))
        raise ValueError(text.replace("slenderise.rank", "slenderise.embedding_rank")) from error


def check_settings(
    sizes: dict[str, int | None], compression: float | None, plan: dict[str, Any], defaults: dict[str, Any]
) -> None:
    """Raise a ValueError where sizes, compression and schedule do not go together.

    Args:
        sizes: heads, intermediate, embedding_rank.
        compression: or this.
        plan: the other arguments.
        defaults: of the other arguments, which without a target must be left alone.
    """
    given = [f"`slenderise.{name}` {value}" for name, value in sizes.items() if value is not None]
    if compression is not None and given:
        raise ValueError(
            f"`slenderise.compression` sets the sizes itself, but {' and '.join(given)} came with it; set one of them "
            "to null."
        )
    if compression is None and not given:
        for name, value in plan.items():
            if value != defaults[name]:
                raise ValueError(
                    f"`slenderise.{name}` {value} needs a target, but there is none; give `slenderise.compression`, or "
                    "at least one of `slenderise.heads`, `slenderise.intermediate` and `slenderise.embedding_rank`."
                )
    for name in ("prunings", "window"):
        if plan[name] < 1:
            raise ValueError(f"`slenderise.{name}` must be at least 1, but got {plan[name]}.")


def check_encoder_trains(stop: int, ends: int) -> None:
    """Raise a ValueError if structures would go when the exits are trained alone.

    Args:
        stop: step before which the last structures go.
        ends: step from which on the policy leaves the encoder as it is.
    """
    if stop >= ends:
        raise ValueError(
            f"`stop` must lie before step {ends}, from which on the policy leaves the encoder as it is, which then "
            f"could not recover, but got step {stop}; end the schedule earlier, or make `policy.share` greater."
        )


def model_of(module: LightningModule) -> Any:
    """The multi-exit model that a module trains.

    Raises:
        ValueError: the module trains none; a stock model of other widths could be saved, but not loaded again.
    """
    model: Any = getattr(getattr(module, "tier", None), "model", None)
    if not isinstance(model, MultiExitForSequenceClassification):
        raise ValueError(
            f"`model` must train a multi-exit model to make it slender, but {type(module).__name__} trains "
            f"{type(model).__name__}; take MultiExit, with the last layer as its only exit if need be."
        )
    return model
