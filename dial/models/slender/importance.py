"""First-order Taylor importance of heads and neurons (COST-EFF, Shen et al. 2022, Eq. 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dial.models.slender.structures import Axis, structures

Variant = Literal["signed", "absolute"]
HeadWeights = Literal["all", "output"]


class TaylorImportance:
    """Sums, batch after batch, how much the losses would change if a structure were removed.

    For a structure S with weights h_i a batch adds ``|sum of g_i * h_i|``, the absolute value of the first-order term
    of the loss's Taylor expansion; g is the gradient of the sum of the losses of all exits. The importance is the mean
    over batches. The authors' code differs in two ways, each behind a switch.

    Args:
        model: an encoder, or a model with one inside.
        variant: ``signed`` as in Eq. 2, or ``absolute``: the sum of ``|g_i| * |h_i|``.
        heads: take all four matrices of a head, or the output projection only.

    Attributes:
        sums: one ``(count,)`` per axis of :func:`structures`, in float64.
        batches: batches summed.
    """

    def __init__(self, model: nn.Module, variant: Variant = "signed", heads: HeadWeights = "all") -> None:
        self.axes = structures(model)
        self.variant, self.heads = variant, heads
        self.shares = [self._shares(axis) for axis in self.axes]
        self.reset()

    def _shares(self, axis: Axis) -> list[Any]:
        shares = axis.parameters()
        if axis.kind == "heads" and self.heads == "output":
            shares = [(part, parameter) for part, parameter in shares if part.inputs]
        return shares

    def reset(self) -> None:
        """Forget all batches."""
        device = self.axes[0].reader.weight.device
        self.sums = [torch.zeros(axis.count, dtype=torch.float64, device=device) for axis in self.axes]
        self.batches = 0

    def update(self, losses: Sequence[Tensor] | Tensor, stand_ins: Mapping[int, Tensor] | None = None) -> None:
        """Add one batch; the gradients that the parameters hold are left alone.

        Args:
            losses: scalar loss of each exit of the batch, with their graph, or a tensor ``(E,)``.
            stand_ins: where the losses were computed with other tensors in the place of parameters
                (``torch.func.functional_call``): those tensors by the parameters' ``id``.

        Raises:
            ValueError: the importance of a layer is not finite, or weights are frozen; the sums stay as they were.
        """
        total = losses.sum() if isinstance(losses, Tensor) else torch.stack(list(losses)).sum()
        stand_ins = stand_ins or {}
        wanted = [stand_ins.get(id(parameter), parameter) for shares in self.shares for _, parameter in shares]
        if not all(parameter.requires_grad for parameter in wanted):
            raise ValueError(
                "The encoder must be trained while its importance is taken, but some of its weights are frozen; make "
                "the model slender before its heads are trained alone."
            )
        # A layer above the last exit whose loss is taken has no gradient, and no importance.
        gradients = iter(torch.autograd.grad(total, wanted, allow_unused=True))
        values = [self._of_axis(axis, shares, gradients) for axis, shares in zip(self.axes, self.shares, strict=True)]
        self.check(values)
        for sums, value in zip(self.sums, values, strict=True):
            sums += value
        self.batches += 1

    @torch.no_grad()
    def _of_axis(self, axis: Axis, shares: list[Any], gradients: Any) -> Tensor:
        value = torch.zeros(axis.count, dtype=torch.float64, device=axis.reader.weight.device)
        for (part, parameter), gradient in zip(shares, gradients, strict=False):  # takes as many as it needs
            if gradient is not None:
                product = gradient * parameter
                value += axis.sums(part, product.abs() if self.variant == "absolute" else product).double()
        return value.abs()

    def check(self, values: Sequence[Tensor]) -> None:
        """Raise a ValueError that names the layer if a value is not finite."""
        finite = torch.stack([value.isfinite().all() for value in values]).tolist()  # one transfer from the device
        for axis, fine in zip(self.axes, finite, strict=True):
            if not fine:
                raise ValueError(
                    f"The importance must be finite, but that of the {axis.kind} of layer {axis.layer + 1} is not; "
                    "lower the learning rate, clip gradients, or train in bf16 or fp32."
                )

    def mean(self) -> list[Tensor]:
        """Importance ``(count,)`` of every axis.

        Raises:
            ValueError: no batch was added.
        """
        if self.batches == 0:
            raise ValueError("`importance` must be of at least one batch, but got none; call `update` first.")
        return [sums / self.batches for sums in self.sums]


def importance(
    model: nn.Module, losses: Sequence[Tensor] | Tensor, variant: Variant = "signed", heads: HeadWeights = "all"
) -> list[Tensor]:
    """Importance ``(count,)`` of every axis of :func:`structures` under one batch's losses."""
    taylor = TaylorImportance(model, variant, heads)
    taylor.update(losses)
    return taylor.mean()


def choose(
    values: Sequence[Tensor], alive: Sequence[Tensor], keep: int, scope: Literal["layer", "global"]
) -> list[Tensor]:
    """Masks that keep the most important structures of one kind.

    Of equally important ones the first stays. What is masked already stays masked.

    Args:
        values: importance ``(count,)`` of every layer.
        alive: masks ``(count,)``, 1 for what is there.
        keep: structures kept per layer, on average.
        scope: ``layer``: ``keep`` in each layer, as in the paper; ``global``: ``keep * L`` among all layers, at least
            one in each.

    >>> scores = [torch.tensor([5.0, 6.0, 1.0]), torch.tensor([2.0, 3.0, 0.0])]
    >>> choose(scores, [torch.ones(3)] * 2, keep=1, scope="layer")
    [tensor([0., 1., 0.]), tensor([0., 1., 0.])]
    >>> choose(scores, [torch.ones(3)] * 2, keep=2, scope="global")
    [tensor([1., 1., 0.]), tensor([1., 1., 0.])]
    """
    ranked = [torch.where(mask > 0, value.double(), -math.inf) for value, mask in zip(values, alive, strict=True)]
    if scope == "layer":
        return [_first(value, keep, mask) for value, mask in zip(ranked, alive, strict=True)]
    # The best of each layer comes first, whatever its importance.
    safe = [value.index_fill(0, value.argmax(), math.inf) for value in ranked]
    chosen = _first(torch.cat(safe), keep * len(values), torch.cat(list(alive)))
    return list(chosen.split([len(value) for value in values]))


def _first(value: Tensor, keep: int, alive: Tensor) -> Tensor:
    order = torch.sort(value, descending=True, stable=True).indices[: max(1, keep)]
    return torch.zeros_like(alive).index_fill(0, order, 1.0) * alive
