"""Tiers seen layer by layer: putting exits on an encoder, and what a teacher says at each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from datamodules.quiet import quiet
from dial.models.exit_proof import prove_layers
from dial.models.exits import UnsuitableEncoderError, Visits, find_layers
from dial.models.multi_exit import MultiExitForSequenceClassification
from dial.models.pooling import Pooling
from dial.stages.task import task_of
from dial.tiers.backends.attach import in_torch
from dial.tiers.batch_proof import settle
from dial.tiers.labels import match_labels
from dial.tiers.loading import View, load_tier, read_config
from dial.tiers.multi_exit import MultiExitTier, check_exits_hold
from dial.tiers.places import check_place
from dial.tiers.reading import length_kept, read_tokenizer, reason_of
from dial.tiers.tier import Encoding, Tier, encoding_key, own_names


def tier_with_exits(
    path: str,
    exits: Sequence[int] | None,
    pooler: bool,
    layers: int | None,
    max_length: int | None,
    label_names: list[str],
    certainty: bool = False,
    pooling: Pooling | None = None,
) -> tuple[Tier, bool]:
    """A multi-exit tier in training mode, and whether all its exits were trained before.

    Args:
        path: folder or hub id of an encoder, a classifier or a multi-exit model.
        exits: layers, counted from 1; None: those that the model has, or all.
        pooler: put a dense layer with tanh into new exits.
        layers: keep only the first layers.
        max_length: tokens kept of a text or pair.
        label_names: the data's names in the order of its integers; empty for regression.
        certainty: add what learns to exit, if the model does not have it.
        pooling: what exits read, ``first``, ``last`` or ``mean``; None: as the model has it, or the token that sees
            the others.

    Raises:
        ValueError: the model cannot be read, or exits, layers or labels do not fit it.
    """
    place = check_place(path, "path")
    config, declared = read_config(place, None, label_names, "path")
    view = View(path=path, layers=layers, max_length=max_length)
    if config.model_type == "multi_exit":
        depth = layers or config.num_hidden_layers
        same = exits is None or list(exits) == [k for k in config.exits if k <= depth]
        if same and pooling in (None, config.pooling):
            tier = load_tier(view, "model", label_names, "path", train=True)
            if certainty and not config.certainty:
                tier.model.add_certainty()
                declared = False
            return tier, declared
    model = _put_exits(place, exits=exits, label_names=label_names, pooler=pooler, pooling=pooling, layers=layers)
    check_exits_hold(model, "path")
    if certainty:
        model.add_certainty()
    if declared and task_of(label_names).exact:  # the head of a classifier is in its own order of labels
        _reorder(model, match_labels(own_names(config), label_names, "path")[0])
    tokenizer = read_tokenizer(place, "path")
    length = length_kept(tokenizer, model, max_length, "model", "path")
    tier = MultiExitTier("model", view, model.train(), tokenizer, length, label_names)
    settle(tier, "path")
    return tier, False


def _put_exits(place: str, **settings: Any) -> MultiExitForSequenceClassification:
    """The encoder with exits; errors say whether its weights or its build are the obstacle.

    Args:
        place: its folder or hub id.
        settings: of ``from_encoder`` of the model with exits.
    """
    try:
        with quiet():
            return MultiExitForSequenceClassification.from_encoder(place, **settings)
    except ValueError:
        raise
    except Exception as error:  # of the weights, or of an encoder that no exits can be put on
        weights = isinstance(
            error, OSError | KeyError | RuntimeError | SafetensorError | UnpicklingError | EOFError | IndexError
        )
        if weights and not isinstance(error, NotImplementedError):
            raise ValueError(f"`path`: the weights in {place} cannot be read: {reason_of(error)}.") from error
        raise ValueError(
            f"`path` must be an encoder that exits can be put on, but that in {place} cannot be taken apart "
            f"({type(error).__name__}: {reason_of(error)}); take another encoder, or `layers` that it can have."
        ) from error


def _reorder(model: MultiExitForSequenceClassification, order: list[int]) -> None:
    """Put the outputs of all exits into the data's order, in place."""
    if order != sorted(order):
        for head in model.heads:
            linear: Any = head.linear
            with torch.no_grad():
                linear.weight.copy_(linear.weight[order].clone())
                linear.bias.copy_(linear.bias[order].clone())


def all_layers(tier: Tier, encoding: Encoding) -> tuple[Tensor, list[Tensor]]:
    """Logits ``(B, E, C)`` of all exits, and hidden states ``H_0`` to ``H_L``, each ``(B, T, H)``.

    Torch computes them, also where a backend computes the tier otherwise: that gives no hidden states.

    Args:
        tier: an encoder whose layers run in sequence, stock or with exits.
        encoding: tensors ``(B, T)``.
    """
    states = []

    def visit(layer: int, hidden: Tensor) -> None:
        states.append(hidden)

    with in_torch(tier), Visits(layers_of(tier), len(encoding["input_ids"]), visit)():
        logits = tier(encoding)
    return logits, states


def layers_of(tier: Tier) -> list[nn.Module]:
    """The stock layers of a tier's encoder, first to last."""
    encoder = tier.model.base_model
    layers: Any = encoder.get_submodule(find_layers(encoder, tier.model.config.num_hidden_layers))
    return list(layers)


def check_layers(tier: Tier, argument: str) -> int:
    """Depth of a tier whose layers can be read one by one, which is tried.

    Raises:
        ValueError: they cannot; names ``argument``.
    """
    depth = getattr(tier.model.config, "num_hidden_layers", None)
    if depth is None or not hasattr(tier.model.config, "hidden_size"):
        raise ValueError(
            f"`{argument}` must be a transformer where layer teaches layer, but got {type(tier.model).__name__}; take "
            "another model, or distil predictions alone with class_path: Distillation."
        )
    try:
        prove_layers(tier.model.base_model)
    except UnsuitableEncoderError as error:
        raise ValueError(f"`{argument}`: {error}") from error
    return int(depth)


def check_read_by_layers(view: View, argument: str) -> None:
    """Refuse a view whose layers torch does not compute in floating point, before it is loaded.

    Raises:
        ValueError: naming ``argument``.
    """
    if view.backend != "torch" or view.dtype == "int8":
        raise ValueError(
            f"`{argument}` must be computed by torch in float32 or bfloat16 where its layers are read, but got "
            f"backend {view.backend} and dtype {view.dtype}; leave them out."
        )
    check_all_tokens(view, argument)


def check_all_tokens(view: View, argument: str) -> None:
    """Refuse a view that drops tokens where states are compared token by token.

    Raises:
        ValueError: naming ``argument``.
    """
    if view.lengths is not None:
        raise ValueError(
            f"`{argument}` must keep all tokens where its layers are read, as token teaches token, but got lengths "
            f"{view.lengths}; leave them out."
        )


def uniform_map(student: int, teacher: int) -> list[int]:
    """The teacher's layer for each of the student's, evenly spaced up to the last (TinyBERT's choice).

    Args:
        student: depth, at most the teacher's for a map without repeats.
        teacher: depth.

    Example:
        >>> uniform_map(4, 12), uniform_map(3, 4)
        ([3, 6, 9, 12], [1, 3, 4])
    """
    return [max(1, (2 * layer * teacher + student) // (2 * student)) for layer in range(1, student + 1)]


def check_map(numbers: Sequence[int], student: int, teacher: int, argument: str) -> None:
    """Refuse a list of the teacher's layers that does not name one for each of the student's.

    Args:
        numbers: layers of the teacher, from 1.
        student: depth.
        teacher: depth.
        argument: how the user calls the list.

    Raises:
        ValueError: naming ``argument``.
    """
    if len(numbers) != student or not all(1 <= number <= teacher for number in numbers):
        raise ValueError(
            f"`{argument}` must name one of the teacher's layers 1 to {teacher} for each of the student's {student}, "
            f"but got {list(numbers)}."
        )


def copy_layers(student: Tier, teacher: Tier, numbers: Sequence[int], argument: str) -> None:
    """Give the student's layers, in place, the weights of the teacher's layers ``numbers``, from 1.

    Raises:
        ValueError: they are of other sizes or another family; names ``argument``.
    """
    other = layers_of(teacher)
    for layer, number in zip(layers_of(student), numbers, strict=True):
        try:
            layer.load_state_dict(other[number - 1].state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"`{argument}` needs a student with layers like the teacher's, but {teacher.view.path} has others than "
                f"{student.view.path}; take the teacher as `path`, cut by `layers`, or leave it out."
            ) from error


def check_same_layers(student: Tier, teacher: Tier, argument: str) -> list[int]:
    """For each exit of the student the teacher's exit that teaches it: that of the same layer, or the only one.

    The teacher's layers are tried, too, as their hidden states may be read.

    Args:
        student: a tier with exits.
        teacher: a tier with one or more exits.
        argument: how the user calls the teacher.

    Raises:
        ValueError: depth, width, vocabulary or exits differ, or the teacher's layers are no sequence; names
            ``argument``.
    """
    try:
        prove_layers(teacher.model.base_model)
    except UnsuitableEncoderError as error:
        raise ValueError(f"`{argument}`: {error}") from error
    own, other = student.model.config, teacher.model.config
    for name, what in (("num_hidden_layers", "layers"), ("hidden_size", "hidden units")):
        sizes = getattr(own, name, None), getattr(other, name, None)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"`{argument}` must have the student's {sizes[0]} {what}, as layer teaches layer, "
                f"but {teacher.view.path} has {sizes[1]}; take a teacher of the same encoder."
            )
    if encoding_key(student.tokenizer, 1) != encoding_key(teacher.tokenizer, 1):
        raise ValueError(
            f"`{argument}` must have the student's vocabulary, as token teaches token, but the tokenizer of "
            f"{teacher.view.path} differs from that of {student.view.path}; take a teacher of the same encoder."
        )
    exits = getattr(other, "exits", None)
    if exits is None or len(exits) == 1:
        return [0] * len(student.exits)
    missing = [k for k in own.exits if k not in exits]
    if missing:
        raise ValueError(
            f"`{argument}` must have an exit at each of the student's layers {own.exits}, but {teacher.view.path} has "
            f"{exits}; leave out {', '.join(map(str, missing))} with `exits`, or take another teacher."
        )
    return [list(exits).index(k) for k in own.exits]
