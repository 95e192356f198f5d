"""Encoders in low precision under heads in full precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dial.tiers.int8 import to_int8

Dtype = Literal["float32", "bfloat16", "float16", "int8"]


class FullPrecisionHead:
    """Runs everything outside ``model.base_model`` without autocast, in the precision of its own weights.

    bf16 logits hold three digits: scores would tie, and change with the layout of the batch. So autocast is switched
    off around the model and on again around its encoder, by hooks on ``model.base_model``; the encoder's outputs are
    cast to the head's dtype. This holds for every class that keeps its encoder in ``base_model``, as all of
    ``AutoModelForSequenceClassification`` do.

    Args:
        model: a model with ``base_model``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._outer: tuple[str, bool, torch.dtype] | None = None
        self._open: list[AbstractContextManager[Any]] = []
        encoder = model.base_model
        assert isinstance(encoder, nn.Module)
        if encoder is not model:
            encoder.register_forward_pre_hook(self._enter)
            encoder.register_forward_hook(self._leave, always_call=True)
        inside = {id(parameter) for parameter in encoder.parameters()}
        outside = [p for p in model.parameters() if id(p) not in inside and p.is_floating_point()]
        self._like: list[nn.Parameter] = outside[:1]

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor]) -> Any:
        """Output of ``model(**inputs)``, whatever autocast is on around the call."""
        device = inputs["input_ids"].device.type
        self._outer = (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        try:
            with torch.autocast(device, enabled=False):
                return model(**inputs)
        finally:
            self._outer = None

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self._outer is not None:
            device, enabled, dtype = self._outer
            context = torch.autocast(device, dtype=dtype, enabled=enabled)
            context.__enter__()
            self._open.append(context)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._open:
            self._open.pop().__exit__(None, None, None)
        dtype = self._like[0].dtype if self._like else torch.float32
        return _cast(output, dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with every floating-point tensor of a nested output as ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):  # also the ModelOutput of transformers, whose fields are its items
        for key, item in value.items():
            value[key] = _cast(item, dtype)
        return value
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, dtype) for item in value)
    return value


def cast_encoder(model: nn.Module, dtype: str, argument: str = "tier") -> None:
    """Put ``model.base_model`` into a lower precision, in place.

    Buffers stay as they are: rotary frequencies in bf16 would place distant tokens wrongly. With ``int8`` its linear
    layers multiply in integers and everything else stays in float32 (see :mod:`dial.tiers.int8`).

    Args:
        model: a model with ``base_model``.
        dtype: one of :data:`Dtype`.
        argument: how the user calls the tier.

    Raises:
        ValueError: the encoder or the machine cannot compute in int8; names ``dtype``.
    """
    if dtype == "int8":
        to_int8(model, argument)
        return
    encoder = model.base_model
    assert isinstance(encoder, nn.Module)
    for parameter in encoder.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))
