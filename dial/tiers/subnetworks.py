"""Tiers that are a part of a model trained at several widths and depths (DynaBERT)."""

from __future__ import annotations

import logging
from typing import Any

from dial.models.slender.subnetworks import FIELD, Subnetwork, check_subnetworks, cut_subnetwork, trained_at
from dial.tiers.tier import View

logger = logging.getLogger(__name__)


def check_whole(view: View, kind: str, argument: str) -> None:
    """Refuse width and depth for a kind of tier that has no sub-networks.

    Raises:
        ValueError: naming the key.
    """
    for key in ("width", "depth"):
        if (value := getattr(view, key)) is not None:
            raise ValueError(f"`{argument}`: `{key}` must be left out for {kind}, but got {value}; take `layers`.")


def cut_as_trained(model: Any, view: View, name: str, argument: str) -> None:
    """Leave the sub-network that a view names, in place; a width or depth without training gets a warning.

    Args:
        model: as read from its folder.
        view: with ``width`` or ``depth``.
        name: what the tier is called.
        argument: how the user calls the view.

    Raises:
        ValueError: the model was not trained so, whose heads and neurons are in no order, or cannot have the width or
            depth; names ``argument``.
    """
    subnetwork = Subnetwork(*(1.0 if value is None else value for value in (view.width, view.depth)))
    trained = trained_at(model.config)
    if trained is None:
        key = "width" if view.width is not None else "depth"
        raise ValueError(
            f"`{argument}`: `{key}` needs a model that was trained at several widths and depths, whose heads are in "
            f"order, but {view.path} was not; leave it out, or train it with class_path: DynaBERT."
        )
    try:
        check_subnetworks(model, [subnetwork.width], [subnetwork.depth])
    except ValueError as error:
        raise ValueError(f"`{argument}`: {error}") from None
    for key, value, values in (
        ("width", subnetwork.width, trained["widths"]),
        ("depth", subnetwork.depth, trained["depths"]),
    ):
        if value not in values:
            logger.warning(
                "%s: %s was trained at %s %s, not at %g, which may answer badly.",
                *(name, view.path, f"{key}s", ", ".join(f"{other:g}" for other in values), value),
            )
    cut_subnetwork(model, subnetwork)
    setattr(model.config, FIELD, None)  # it has no smaller part
