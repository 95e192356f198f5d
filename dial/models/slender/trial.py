"""A cut that is tried before the training that leads to it: what would fail after all epochs fails here."""

from __future__ import annotations

import copy
from typing import Any

import torch

from dial.models.slender.encoder import compression, cut_in_place
from dial.models.slender.masks import masks
from dial.models.slender.plan import Target
from dial.models.slender.structures import structures
from dial.models.trial import trial_inputs, trial_mode


def try_cut(model: Any, target: Target) -> None:
    """Mask a copy of a model down to its target sizes, cut it, measure it and make room for it as a saved one.

    Args:
        model: a multi-exit model with masks; it stays as it is, and the copy shares its weights.
        target: heads and neurons that each layer is to keep.

    Raises:
        ValueError: the model cannot be cut so, or is another function then; in one line.
    """
    name = type(model.encoder).__name__
    try:
        same, shapes = _cut_copy(model, target)
    except Exception as error:  # whatever an encoder does whose layers only look like those of a known family
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")
        raise ValueError(
            f"`model` must be one whose heads and neurons can be removed, but {name} fails when that is tried "
            f"({reason}); take another encoder, or train without `slenderise`."
        ) from error
    if not same or not shapes:
        what = "gives other outputs than with its structures masked" if not same else "cannot be loaded again"
        raise ValueError(
            f"`model` must be one whose heads and neurons can be removed, but {name}, when it is tried, {what}; take "
            "another encoder, or train without `slenderise`."
        )


def _cut_copy(model: Any, target: Target) -> tuple[bool, bool]:
    """Whether a cut copy gives what the masked one gives, and whether a new model of its config has its shapes."""
    slender = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()}).eval()
    for mask, axis in zip(masks(slender), structures(slender), strict=True):
        # Layers of two widths, as `scope: global` leaves them.
        mask[max(1, target.of(axis.kind) - axis.layer % 2) :] = 0
    inputs = trial_inputs(slender.encoder, 3, 5)
    with trial_mode(slender):
        masked = slender(**inputs).logits
        cut_in_place(slender)
        same = torch.allclose(slender(**inputs).logits, masked, rtol=1e-3, atol=1e-4 * float(masked.std() + 1))
    compression(slender)
    with torch.device("meta"):
        loaded = type(model)(copy.deepcopy(slender.config))
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (slender, loaded)]
    return same, shapes[0] == shapes[1]
