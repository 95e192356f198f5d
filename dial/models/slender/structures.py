"""Where the attention heads and feed-forward neurons of stock encoders lie in their weight matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dial.models.slender.position_bias import keep_bias

Kind = Literal["heads", "neurons"]


@dataclass(frozen=True)
class Slices:
    """The share that the structures of an axis have in one linear map.

    Args:
        name: path of the map within its layer.
        linear: the map.
        inputs: whether the structures are its inputs (columns); else its outputs (rows, and entries of the bias).
        blocks: how often the axis repeats one after another, as query, key and value do in a fused matrix.
    """

    name: str
    linear: nn.Linear
    inputs: bool
    blocks: int = 1


@dataclass(frozen=True)
class Axis:
    """The removable structures of one kind in one layer.

    Args:
        layer: number of the layer, from 0.
        kind: heads of the attention, or hidden neurons of the feed-forward network.
        size: neighbouring rows or columns that one structure takes: the head size, or 1.
        slices: all maps that lose something when a structure goes; the last one reads the structures' values.
        owner: module that keeps the number of heads as an attribute, for heads.
    """

    layer: int
    kind: Kind
    size: int
    slices: tuple[Slices, ...]
    owner: nn.Module

    @property
    def reader(self) -> nn.Linear:
        """The map that reads the structures' values: the output projection."""
        return self.slices[-1].linear

    @property
    def count(self) -> int:
        """Structures at present."""
        return self.reader.in_features // self.size

    @property
    def parameters_each(self) -> int:
        """Weights and biases that go with one structure."""
        total = 0
        for part in self.slices:
            other = (
                part.linear.out_features if part.inputs else part.linear.in_features + (part.linear.bias is not None)
            )
            total += part.blocks * self.size * other
        return total

    def parameters(self) -> list[tuple[Slices, Tensor]]:
        """Every parameter of which the structures have a share; the bias of the reader belongs to none of them."""
        found = []
        for part in self.slices:
            found.append((part, part.linear.weight))
            if part.linear.bias is not None and not part.inputs:
                found.append((part, part.linear.bias))
        return found

    def sums(self, part: Slices, values: Tensor) -> Tensor:
        """Sum of each structure's share, ``(count,)``, of values in the shape of the part's weight or bias."""
        if part.inputs:
            return values.view(values.shape[0], self.count, self.size).sum(dim=(0, 2))
        return values.view(part.blocks, self.count, -1).sum(dim=(0, 2))

    def positions(self, part: Slices, keep: Tensor) -> Tensor:
        """Rows or columns of a part that belong to the structures ``keep``, ``(blocks * len(keep) * size,)``."""
        blocks = torch.arange(part.blocks, device=keep.device)[:, None, None] * (self.count * self.size)
        within = torch.arange(self.size, device=keep.device)
        return (blocks + keep[:, None] * self.size + within).flatten()

    def reduce(self, keep: Tensor) -> None:
        """Leave only the structures ``keep`` (indices, ascending), in place: the maps become really smaller."""
        chosen = [(part, self.positions(part, keep)) for part in self.slices]  # before the count changes
        for part, positions in chosen:
            linear, positions = part.linear, positions.to(part.linear.weight.device)
            linear.weight = _selected(linear.weight, 1 if part.inputs else 0, positions)
            if linear.bias is not None and not part.inputs:
                linear.bias = _selected(linear.bias, 0, positions)
            linear.out_features, linear.in_features = linear.weight.shape
        for name, value in self.attributes(self.count).items():
            setattr(self.owner, name, value)
        if self.kind == "heads":
            keep_bias(self.owner, keep)

    def attributes(self, count: int) -> dict[str, int]:
        """What the owner says of so many heads; nothing of neurons.

        Most attentions infer their heads from the shapes; then these are for who reads the model.
        """
        values = {"num_attention_heads": count, "n_heads": count, "all_head_size": count * self.size}
        return {key: value for key, value in values.items() if self.kind == "heads" and hasattr(self.owner, key)}


def _selected(parameter: Tensor, dim: int, positions: Tensor) -> nn.Parameter:
    values = parameter.detach().index_select(dim, positions)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


@dataclass(frozen=True)
class Family:
    """Names in one family of layers; ``blocks`` of the first feed-forward map is 2 where it is gated."""

    attention: str
    projections: tuple[str, ...]
    attention_output: str
    inner: str
    inner_output: str
    head_size: str = "attention_head_size"
    projection_blocks: int = 1
    inner_blocks: int = 1

    def fits(self, layer: nn.Module) -> bool:
        """Whether a layer has all these maps."""
        names = (*self.projections, self.attention_output, self.inner, self.inner_output)
        return all(isinstance(_at(layer, name), nn.Linear) for name in names)

    def axes(self, layer: nn.Module, index: int) -> list[Axis]:
        """Heads and neurons of a layer."""

        def part(name: str, inputs: bool, blocks: int = 1) -> Slices:
            return Slices(name, attrgetter(name)(layer), inputs, blocks)

        heads = [part(name, False, self.projection_blocks) for name in self.projections]
        heads.append(part(self.attention_output, True))
        neurons = [part(self.inner, False, self.inner_blocks), part(self.inner_output, True)]
        owner = attrgetter(self.attention)(layer)
        size = getattr(owner, self.head_size)
        return [Axis(index, "heads", size, tuple(heads), owner), Axis(index, "neurons", 1, tuple(neurons), owner)]


FAMILIES = {
    "BERT": Family(
        attention="attention.self",
        projections=("attention.self.query", "attention.self.key", "attention.self.value"),
        attention_output="attention.output.dense",
        inner="intermediate.dense",
        inner_output="output.dense",
    ),
    "DistilBERT": Family(
        attention="attention",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        inner="ffn.lin1",
        inner_output="ffn.lin2",
    ),
    "MPNet": Family(
        attention="attention.attn",
        projections=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        attention_output="attention.attn.o",
        inner="intermediate.dense",
        inner_output="output.dense",
    ),
    "ModernBERT": Family(
        attention="attn",
        projections=("attn.Wqkv",),
        attention_output="attn.Wo",
        inner="mlp.Wi",
        inner_output="mlp.Wo",
        head_size="head_dim",
        projection_blocks=3,
        inner_blocks=2,
    ),
}


def structures(model: nn.Module) -> list[Axis]:
    """Heads and neurons of every layer: the heads of layer 0, its neurons, the heads of layer 1, and so on.

    Raises:
        ValueError: the layers are of no known family, as shared ones are not.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            for family in FAMILIES.values():
                if all(family.fits(layer) for layer in module):
                    return [axis for index, layer in enumerate(module) for axis in family.axes(layer, index)]
    raise ValueError(
        f"`model` must be an encoder whose layers are named as in {', '.join(FAMILIES)} (RoBERTa, ELECTRA and MiniLM "
        f"are like BERT), but {type(model).__name__} is not; add its names to FAMILIES."
    )


def of_kind(axes: list[Axis], kind: Kind) -> list[Axis]:
    """The axes of one kind, one per layer."""
    return [axis for axis in axes if axis.kind == kind]


def per_layer(model: nn.Module, kind: Kind) -> list[int]:
    """Heads or neurons of every layer at present."""
    return [axis.count for axis in of_kind(structures(model), kind)]


def _at(module: nn.Module, name: str) -> object:
    try:
        return attrgetter(name)(module)
    except AttributeError:
        return None


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
