"""Joint training with gradients in equilibrium (COST-EFF, Eq. 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch

from lightning_modules.policies.joint_sum import JointSum
from lightning_modules.policies.policy import Parts

Count = Literal["exits", "layers"]


class GradientEquilibrium(JointSum):
    """Sum of the exits' losses, whose gradient is divided in each layer by the number of exits at or above it.

    Layer ``k`` receives a gradient from every exit at or above it, so without a balance the first layers receive most
    (COST-EFF, Eq. 3, after Li et al. 2019). The gradient is linear in the losses, so dividing that of a layer's
    parameters, once before each step of the optimiser, is Eq. 3 to the letter for any set of exits, and for any further
    loss (hidden states) that flows through the layer. Embeddings count as layer 1; the exits' own parameters are left
    alone. In place and all at once it takes 3 % of a training step; as each gradient arrives it took 11 %.

    A constant factor cancels in AdamW's step, up to its ``eps``: there the equilibrium acts through the clipping of
    gradients, where layers then weigh differently. With SGD it acts in full.

    Args:
        count: ``exits`` as in the paper; ``layers`` divides layer ``k`` by ``L - k + 1`` whatever the exits, which is
            what the released code does and is the same only if every layer has an exit.

    Raises:
        ValueError: another ``count``.
    """

    def __init__(self, count: Count = "exits") -> None:
        if count not in get_args(Count):
            raise ValueError(f"`policy.count` must be one of {', '.join(get_args(Count))}, but got {count!r}.")
        self.count = count

    def attach(self, parts: Parts) -> None:
        """Learn by what the gradients of each parameter are divided."""
        depth = len(parts.layers)
        groups = [(1, parts.below), *((k, layer.parameters()) for k, layer in enumerate(parts.layers, 1))]
        divisors = [(self.divisor(layer, parts.exits, depth), parameters) for layer, parameters in groups]
        self._divided = [(p, divisor) for divisor, parameters in divisors if divisor != 1 for p in parameters]

    @torch.no_grad()
    def balance(self) -> None:
        """Divide the gradients."""
        found = [(p.grad, divisor) for p, divisor in self._divided if p.grad is not None]
        if found:
            gradients, divisors = zip(*found, strict=True)
            torch._foreach_div_(gradients, [float(divisor) for divisor in divisors])

    def divisor(self, layer: int, exits: Iterable[int], depth: int) -> int:
        """What the gradient of a layer, counted from 1, is divided by.

        Example:
            >>> [GradientEquilibrium().divisor(k, [2, 4], 4) for k in (1, 2, 3, 4)]
            [2, 2, 1, 1]
            >>> [GradientEquilibrium("layers").divisor(k, [2, 4], 4) for k in (1, 2, 3, 4)]
            [4, 3, 2, 1]
        """
        return depth - layer + 1 if self.count == "layers" else sum(exit_ >= layer for exit_ in exits)
