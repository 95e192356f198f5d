"""Slender encoders (COST-EFF, Shen et al. 2022, section 3.2): the same depth and hidden size, narrower inside."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from dial.models.exits import trial_inputs, trial_mode
from dial.models.slender.embeddings import FactorisedEmbedding, replace_word_embedding, word_embedding
from dial.models.slender.plan import Target
from dial.models.slender.structures import (
    Kind,
    attach_masks,
    detach_masks,
    has_masks,
    mask_of,
    masks,
    of_kind,
    per_layer,
    structures,
)

M = TypeVar("M", bound=nn.Module)
TABLE = "_embeddings.table.weight"  # word_embeddings, tok_embeddings
FIELDS: dict[str, Kind] = {"heads": "heads", "intermediate": "neurons"}


def cut(model: M) -> M:
    """A copy of a model without its masked structures; its outputs are those of the masked model.

    The copy has no masks, and ``heads``, ``intermediate`` and ``embedding_rank`` in its config say its shapes, with
    which :func:`shape_model` makes room for its weights. A model without masks is copied as it is.

    Raises:
        ValueError: a layer would have no heads or no neurons.
    """
    slender = copy.deepcopy(model)
    cut_in_place(slender)
    return slender


def cut_in_place(model: nn.Module) -> None:
    """Like :func:`cut`, of the model itself, whose parameters are replaced: not while an optimiser holds them."""
    axes = structures(model)
    kept = {
        number: mask.nonzero().flatten().cpu()
        for number, axis in enumerate(axes)
        if (mask := mask_of(axis)) is not None
    }
    for number, keep in kept.items():
        if len(keep) == 0:
            axis = axes[number]
            raise ValueError(f"Layer {axis.layer + 1} must keep at least one of its {axis.kind}, but all are masked.")
    detach_masks(model)
    for number, keep in kept.items():
        if len(keep) < axes[number].count:
            axes[number].reduce(keep)
    note_shapes(model)


def note_shapes(model: nn.Module) -> None:
    """Write the widths of all layers and the rank of the word embeddings into a model's config."""
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    for field, kind in FIELDS.items():
        setattr(config, field, per_layer(model, kind))
    embedding = word_embedding(model)
    config.embedding_rank = embedding.rank if isinstance(embedding, FactorisedEmbedding) else None


def shape_model(model: nn.Module, config: Any) -> None:
    """Give a model the shapes that a config notes, in place, before its weights load.

    Each layer keeps its first heads and neurons; a factorised embedding is untrained. Meta tensors are fine. Fields
    that are missing or None change nothing.

    Args:
        model: a model of the stock widths.
        config: has ``heads`` and ``intermediate`` (numbers per layer) and ``embedding_rank``.

    Raises:
        ValueError: another number of layers, or a width that the model cannot have.
    """
    axes = structures(model) if any(getattr(config, field, None) is not None for field in FIELDS) else []
    for field, kind in FIELDS.items():
        widths = getattr(config, field, None)
        if widths is None:
            continue
        layers = of_kind(axes, kind)
        if len(widths) != len(layers):
            raise ValueError(f"`{field}` must hold one number for each of {len(layers)} layers, but got {widths}.")
        for axis, width in zip(layers, widths, strict=True):
            if not 1 <= width <= axis.count:
                raise ValueError(
                    f"`{field}` of layer {axis.layer + 1} must lie between 1 and {axis.count}, but got {width}."
                )
            if width < axis.count:
                axis.reduce(torch.arange(width, device="cpu"))
    rank = getattr(config, "embedding_rank", None)
    if rank is not None and isinstance(embedding := word_embedding(model), nn.Embedding):
        replace_word_embedding(model, FactorisedEmbedding.like(embedding, rank))


def unpruned(model: Any) -> nn.Module:
    """A multi-exit model of the stock widths, as ``model`` was before it was made slender; without data (meta device).

    Args:
        model: a multi-exit model whose config notes its shapes.
    """
    config = copy.deepcopy(model.config)
    for field in (*FIELDS, "embedding_rank"):
        setattr(config, field, None)
    with torch.device("meta"):
        return type(model)(config)


def compression(model: Any) -> dict[str, Any] | None:
    """How many times smaller a slender model is than the unpruned one with the same exits; None where it is not.

    Returns:
        ``parameters`` (before and after) and ``factor``, each of all parameters (COST-EFF's Table 3) and of those
        outside the word embeddings.
    """
    if not any(getattr(getattr(model, "config", None), field, None) for field in (*FIELDS, "embedding_rank")):
        return None
    before, after = parameters(unpruned(model)), parameters(model)
    return {
        "parameters": {name: {"before": before[name], "after": after[name]} for name in before},
        "factor": {name: round(before[name] / after[name], 3) for name in before},
    }


def parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters: ``all``, and ``without_embeddings`` of words."""
    total = sum(parameter.numel() for parameter in model.parameters())
    words = sum(parameter.numel() for parameter in word_embedding(model).parameters())
    return {"all": total, "without_embeddings": total - words}


def make_room(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a model what a checkpoint of a run with slenderisation holds, in place, before it loads.

    That is masks, and a factorised word embedding. Other checkpoints change nothing.

    Args:
        model: the model as it was before slenderisation.
        state: state dict of the model, or of a module around it.
    """
    ranks = [value.shape[1] for name, value in state.items() if name.endswith(TABLE)]
    if ranks and isinstance(embedding := word_embedding(model), nn.Embedding):
        replace_word_embedding(model, FactorisedEmbedding.like(embedding, ranks[0]))
    if has_masks(state):
        attach_masks(model)


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
