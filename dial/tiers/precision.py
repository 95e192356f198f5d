"""Encoders in low precision under heads in full precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

HALF = 127
"""Integers reach from -127 to 127, so that zero is exact and signs are alike."""
OFFSET = 128
"""oneDNN is fast with unsigned activations: integers are shifted up by this, and it takes that off the sums."""
FLIP = torch.tensor(OFFSET, dtype=torch.uint8)
ZERO = torch.zeros(1, dtype=torch.long)


class Int8Linear(nn.Module):
    """A linear layer with int8 weights; its input is rounded to int8 token by token.

    Weights are rounded symmetrically with one scale per output, activations with one scale per token, so that a token's
    output depends on nothing but the token. Sums are exact 32-bit integers.

    Args:
        linear: what it replaces; its bias is shared.
    """

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        values, scale = quantise(linear.weight.detach().float())
        self.weight = nn.Parameter(values, requires_grad=False)  # a parameter still, so that it is counted as one
        self.register_buffer("scale", scale.squeeze(1))
        self.bias = linear.bias
        self._packed: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies pack their weights again: packed tensors cannot be copied."""
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``(..., out_features)`` in float32 from inputs ``(..., in_features)``.

        Raises:
            ValueError: the inputs are on another device than a CPU.
        """
        if inputs.is_meta:  # where costs are counted: the products are those of a linear layer
            return nn.functional.linear(inputs, self.weight.to(inputs.dtype), self.bias)
        if inputs.device.type != "cpu":
            raise ValueError(
                f"`dtype` int8 computes on a CPU only, but the tier is on {inputs.device.type}; "
                "take bfloat16 there, or --trainer.accelerator=cpu."
            )
        rows = inputs.reshape(-1, self.in_features).float()
        if not len(rows):
            return rows.new_zeros(*inputs.shape[:-1], self.out_features)
        if self._packed is None:
            self._packed = torch.ops.onednn.qlinear_prepack(self.weight.detach(), None)
        values, scale = quantise(rows)
        outputs = multiply(values, self._packed, self.scale).mul_(scale)
        if self.bias is not None:
            outputs.add_(self.bias)
        return outputs.view(*inputs.shape[:-1], self.out_features)


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(R, K)`` as int8 and their scales ``(R, 1)``: the largest of a row becomes 127.

    A row of zeros stays one. A row with a value that is not finite gets a scale that is not either, so that what comes
    of it is noticed.

    Example:
        >>> values, scale = quantise(torch.tensor([[0.5, -1.0], [0.0, 0.0]]))
        >>> values.tolist(), (values * scale).round(decimals=2).tolist()
        ([[64, -127], [0, 0]], [[0.5, -1.0], [0.0, 0.0]])
    """
    scale = rows.abs().amax(dim=1, keepdim=True).div_(HALF).clamp_(min=torch.finfo(torch.float32).tiny)
    return rows.mul(scale.reciprocal()).round_().to(torch.int8), scale


def multiply(values: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """``values @ weights.T * scale`` in float32 from exact integer sums, ``(R, N)``.

    Args:
        values: int8 ``(R, K)``.
        packed: int8 weights ``(N, K)`` as ``onednn::qlinear_prepack`` lays them out.
        scale: float32 ``(N,)``.
    """
    shifted = values.view(torch.uint8) ^ FLIP  # two's complement: flipping the highest bit adds 128
    weights = packed, scale, ZERO
    after: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")  # no bias, float32 out, nothing behind it
    outputs: Tensor = torch.ops.onednn.qlinear_pointwise(shifted, 1.0, OFFSET, *weights, *after)
    return outputs


@cache
def missing_route() -> str | None:
    """Why this machine cannot compute int8 layers; None if it can.

    Processors without VNNI instructions add pairs of products in 16 bits, which overflow: the largest products tell.
    """
    values = torch.full((3, 64), HALF, dtype=torch.int8)
    values[1] = -HALF
    weights = torch.full((16, 64), HALF, dtype=torch.int8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weights, None)
        found = multiply(values, packed, torch.ones(16))
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        return " ".join(str(error).split())[:120]
    wanted = values.double() @ weights.double().T
    return None if torch.equal(found.double(), wanted) else "8-bit products overflow (no VNNI instructions)"


def to_int8(model: nn.Module, argument: str) -> None:
    """Replace the linear layers of ``model.base_model`` by :class:`Int8Linear`, in place.

    A pooler stays as it is: it sees one token, so there is no time to win, and the answer hangs on it.

    Args:
        model: a model with ``base_model``.
        argument: how the user calls the tier.

    Raises:
        ValueError: the machine lacks the route, or the encoder has no linear layers; names ``dtype``.
    """
    encoder = model.base_model
    assert isinstance(encoder, nn.Module)
    found = [
        (parent, name, child)
        for path, parent in encoder.named_modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and "pooler" not in f"{path}.{name}" and child.weight.numel()
    ]
    if not found:
        raise ValueError(
            f"`{argument}`: `dtype` int8 is for encoders made of linear layers, but {type(encoder).__name__} has none; "
            "take float32 or bfloat16."
        )
    reason = missing_route()
    if reason is not None:
        raise ValueError(
            f"`{argument}`: `dtype` int8 needs exact 8-bit products from oneDNN, but this machine has none ({reason}); "
            "take bfloat16 or float32."
        )
    for parent, name, child in found:
        setattr(parent, name, Int8Linear(child))


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
    layers multiply in integers and everything else stays in float32 (see :mod:`dial.tiers.precision`).

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
