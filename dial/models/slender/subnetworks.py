"""Sub-networks of one set of weights, by width and depth (DynaBERT, Hou et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dial.models.exits import find_layers
from dial.models.slender.position_bias import shared_bias
from dial.models.slender.structures import Axis, of_kind, structures

FIELD = "subnetworks"  # of a model's configuration: the widths and depths that it was trained at


class Subnetwork(NamedTuple):
    """Shares of a network that are kept.

    Attributes:
        width: of the attention heads and feed-forward neurons of each layer.
        depth: of the layers.
    """

    width: float = 1.0
    depth: float = 1.0

    def __str__(self) -> str:
        """As in tables."""
        return f"width{self.width:g}-depth{self.depth:g}"


def exact(share: float) -> Fraction:
    """A multiplier as the fraction that was meant: 0.33 is 33/100, and 0.3333333333333333 is 1/3."""
    return Fraction(share).limit_denominator(1000)


def kept_layers(layers: int, depth: float) -> list[int]:
    """Numbers, from 0, of the layers that a depth multiplier keeps: those dropped are spread evenly.

    At depth m each layer d, from 0, is dropped where ``(d + 1) mod 1/(1 - m) = 0`` (Hou et al. 2020, section 2.2).

    Args:
        layers: of the full network.
        depth: multiplier, above 0 and at most 1.

    >>> kept_layers(12, 0.75), kept_layers(6, 0.5)
    ([0, 1, 2, 4, 5, 6, 8, 9, 10], [0, 2, 4])
    """
    share = exact(depth)
    return [math.floor(number / share) for number in range(math.ceil(layers * share))]


def kept_structures(axis: Axis, width: float) -> int:
    """How many of a layer's heads or neurons a width multiplier keeps; neurons are rounded."""
    return max(1, round(axis.count * exact(width)))


def check_subnetworks(model: nn.Module, widths: Sequence[float], depths: Sequence[float], ending: str = "") -> None:
    """Refuse multipliers that a model cannot have.

    Args:
        model: an encoder, or a model with one inside.
        widths: multipliers.
        depths: multipliers.
        ending: of the arguments' names, where they are lists: ``widths``, ``depths``.

    Raises:
        ValueError: in one line, naming the multiplier.
    """
    for what, values in (("width", widths), ("depth", depths)):
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ValueError(f"`{what}{ending}` must be above 0 and at most 1, but got {value!r}.")
    heads = [axis.count for axis in of_kind(structures(model), "heads")]
    for value in widths:
        if any((exact(value) * count).denominator > 1 for count in heads):
            count = min(count for count in heads if (exact(value) * count).denominator > 1)
            raise ValueError(
                f"`width{ending}` must divide the {count} attention heads of a layer, but {value:g} of them are "
                f"{value * count:g}; take multiples of 1/{count}."
            )
    for value in depths:
        if value < 1 and len(kept_layers(len(heads), value)) == len(heads):
            raise ValueError(
                f"`depth{ending}` must drop a layer where it is below 1, but {value:g} keeps all {len(heads)}; take at "
                f"most {1 - 1 / len(heads):.3g}, or 1."
            )


def trained_at(config: Any) -> dict[str, list[float]] | None:
    """The ``widths`` and ``depths`` that a model was trained at; None where its heads are in no order."""
    found = getattr(config, FIELD, None)
    return {name: [float(value) for value in found[name]] for name in ("widths", "depths")} if found else None


def order_structures(model: nn.Module, importance: Sequence[Tensor]) -> None:
    """Put the heads and neurons of every layer in the order of their importance, in place; the function stays.

    Where all layers share a relative position bias (MPNet) a head has one number in all of them: there heads get one
    order, by their importance in all layers together.

    Args:
        model: an encoder, or a model with one inside.
        importance: ``(count,)`` for each axis of :func:`~dial.models.slender.structures.structures`.
    """
    axes, bias = structures(model), shared_bias(model)
    values = [value.detach().double() for value in importance]
    if bias is not None:
        # Layers differ in scale: each has the same say.
        heads = [value / value.sum().clamp_min(1e-30) for axis, value in zip(axes, values, strict=True) if _heads(axis)]
        together = torch.stack(heads).sum(dim=0)
        values = [together if _heads(axis) else value for axis, value in zip(axes, values, strict=True)]
    orders = [torch.sort(value, descending=True, stable=True).indices for value in values]
    with torch.no_grad():
        for axis, order in zip(axes, orders, strict=True):
            for part, parameter in axis.parameters():
                positions = axis.positions(part, order.to(parameter.device))
                parameter.copy_(parameter.index_select(1 if part.inputs else 0, positions))
        if bias is not None:
            first = next(order for axis, order in zip(axes, orders, strict=True) if _heads(axis))
            bias.weight.copy_(bias.weight[:, first.to(bias.weight.device)])


def _heads(axis: Axis) -> bool:
    return axis.kind == "heads"


def cut_subnetwork(model: Any, subnetwork: Subnetwork) -> None:
    """Leave only a sub-network of a model, in place: smaller matrices and fewer layers, for good.

    Args:
        model: of transformers, whose heads and neurons are in order.
        subnetwork: that :func:`check_subnetworks` allows.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 4, "intermediate_size": 12, "vocab_size": 9}
        >>> model = BertModel(BertConfig(**sizes, num_hidden_layers=4))
        >>> cut_subnetwork(model, Subnetwork(width=0.25, depth=0.5))
        >>> len(model.encoder.layer), model.encoder.layer[0].attention.self.query.weight.shape
        (2, torch.Size([2, 8]))
    """
    for axis in structures(model):
        kept = kept_structures(axis, subnetwork.width)
        if kept < axis.count:
            axis.reduce(torch.arange(kept))
    parent, name, layers = _layers(model)
    kept_numbers = kept_layers(len(layers), subnetwork.depth)
    if len(kept_numbers) < len(layers):
        setattr(parent, name, nn.ModuleList(layers[number] for number in kept_numbers))
        for key, value in _per_layer(model.config, kept_numbers).items():
            setattr(model.config, key, value)


@contextmanager
def narrowed(model: Any, subnetwork: Subnetwork) -> Iterator[None]:
    """Within this context a model computes a sub-network: on views of its weights, which get the gradients.

    Args:
        model: of transformers, whose heads and neurons are in order.
        subnetwork: that :func:`check_subnetworks` allows.
    """
    with ExitStack() as stack:
        for axis in structures(model):
            kept = kept_structures(axis, subnetwork.width)
            if kept < axis.count:
                for module, name, value in _first(axis, kept):
                    stack.enter_context(_shadowed(module, name, value))
                bias = shared_bias(model)
                if bias is not None and _heads(axis):
                    stack.enter_context(_shadowed(bias, "weight", bias._parameters["weight"][:, :kept]))  # type: ignore[index]
        parent, name, layers = _layers(model)
        kept_numbers = kept_layers(len(layers), subnetwork.depth)
        if len(kept_numbers) < len(layers):
            kept_list = nn.ModuleList(layers[number] for number in kept_numbers)
            stack.callback(setattr, parent, name, layers)
            setattr(parent, name, kept_list)
            for key, value in _per_layer(model.config, kept_numbers).items():
                stack.callback(setattr, model.config, key, getattr(model.config, key))
                setattr(model.config, key, value)
        yield


@contextmanager
def _shadowed(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Let an attribute of a module have another value; its parameters, which lie elsewhere, stay what they are."""
    own = module.__dict__
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(before)


def _first(axis: Axis, kept: int) -> Iterator[tuple[nn.Module, str, Any]]:
    """Modules, attributes and values of an axis without all but its first structures."""
    for part in axis.slices:
        for name in ("weight", "bias"):
            parameter = getattr(part.linear, name)
            if parameter is not None and not (part.inputs and name == "bias"):
                dim = 1 if part.inputs else 0
                blocks = parameter.unflatten(dim, (part.blocks, -1)).narrow(dim + 1, 0, kept * axis.size)
                yield part.linear, name, blocks.flatten(dim, dim + 1)
    for name, value in axis.attributes(kept).items():
        yield axis.owner, name, value


def _layers(model: Any) -> tuple[nn.Module, str, nn.ModuleList]:
    """The module that holds the encoder's layers, its attribute, and the layers."""
    encoder = model.base_model
    place, _, name = find_layers(encoder, model.config.num_hidden_layers).rpartition(".")
    parent = encoder.get_submodule(place)
    layers: nn.ModuleList = getattr(parent, name)
    return parent, name, layers


def _per_layer(config: Any, kept: Sequence[int]) -> dict[str, Any]:
    """Settings of a configuration for the layers ``kept``."""
    types = getattr(config, "layer_types", None)
    chosen = {"layer_types": [types[number] for number in kept]} if types else {}
    return {"num_hidden_layers": len(kept), **chosen}
