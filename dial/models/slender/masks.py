"""Structures multiplied by 0 or 1 while a model trains; they are really removed afterwards, by ``cut``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dial.models.slender.structures import Axis, structures

MASK = "structure_mask"


def attach_masks(model: nn.Module) -> None:
    """Give every layer a buffer ``(count,)`` of ones for its heads and one for its neurons, in place.

    The map that reads the structures' values multiplies them by the mask first, so a masked structure neither
    contributes nor gets a gradient. The buffers are saved with the weights. Masks that are there already stay.
    """
    for axis in structures(model):
        if mask_of(axis) is None:
            mask = torch.ones(axis.count, dtype=torch.float32, device=axis.reader.weight.device)
            axis.reader.register_buffer(MASK, mask)
            axis.reader.register_forward_pre_hook(_mask_inputs)


def detach_masks(model: nn.Module) -> None:
    """Undo :func:`attach_masks`, in place."""
    for axis in structures(model):
        if mask_of(axis) is not None:
            delattr(axis.reader, MASK)
            hooks = axis.reader._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is _mask_inputs]:
                del hooks[key]


def mask_of(axis: Axis) -> Tensor | None:
    """The mask of an axis, ``(count,)``; None where none is attached."""
    return getattr(axis.reader, MASK, None)


def masks(model: nn.Module) -> list[Tensor]:
    """The attached masks in the order of :func:`structures`.

    Raises:
        ValueError: none are attached.
    """
    found = [mask_of(axis) for axis in structures(model)]
    present = [mask for mask in found if mask is not None]
    if len(present) < len(found):
        raise ValueError("`model` must have masks, but it has none; call `attach_masks` first.")
    return present


def set_masks(model: nn.Module, values: Sequence[Tensor]) -> None:
    """Overwrite the attached masks, in place; the buffers stay the same objects."""
    for mask, value in zip(masks(model), values, strict=True):
        mask.copy_(value)


def has_masks(state: Mapping[str, Any]) -> bool:
    """Whether a state dict was saved from a model with masks, which must be attached before it loads."""
    return any(name.rpartition(".")[2] == MASK for name in state)


def _mask_inputs(reader: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    mask: Tensor = getattr(reader, MASK)
    values = inputs[0]
    wide = mask.to(values.dtype)[:, None].expand(-1, values.shape[-1] // mask.shape[0]).reshape(-1)
    return (values * wide, *inputs[1:])
