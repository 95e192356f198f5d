"""What an exit policy owes to the module that trains with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Parts:
    """A multi-exit model as a policy sees it.

    Attributes:
        layers: the encoder's layers, first to last.
        heads: the exits' own modules, first to last.
        exits: layer of each exit, counted from 1, ascending; the last is the depth.
        below: what is trained below the first layer (embeddings).
        above: what is trained behind the last layer and belongs to no exit (a final norm).
    """

    layers: Sequence[nn.Module]
    heads: Sequence[nn.Module]
    exits: Sequence[int]
    below: Sequence[nn.Parameter] = field(default_factory=tuple)
    above: Sequence[nn.Parameter] = field(default_factory=tuple)

    @property
    def backbone(self) -> list[nn.Parameter]:
        """Every parameter outside the exits' own modules."""
        inside = [parameter for layer in self.layers for parameter in layer.parameters()]
        return [*self.below, *inside, *self.above]

    @classmethod
    def of(
        cls, encoder: nn.Module, layers: Sequence[nn.Module], heads: Sequence[nn.Module], exits: Sequence[int]
    ) -> Parts:
        """The parts of an encoder, told apart by the order in which it holds its parameters.

        Args:
            encoder: holds ``layers``, and parameters before and behind them.
            layers: first to last.
            heads: first to last.
            exits: layer of each exit, counted from 1.
        """
        inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
        below: list[nn.Parameter] = []
        above: list[nn.Parameter] = []
        seen = False
        for parameter in encoder.parameters():
            seen = seen or id(parameter) in inside
            if id(parameter) not in inside:
                (above if seen else below).append(parameter)
        return cls(list(layers), list(heads), list(exits), below, above)


class ExitPolicy:
    """Says how the losses of the exits become one loss, and how its gradient reaches the encoder.

    One object serves one fit. The default methods are those of a policy that only weighs losses.
    """

    def loss(self, exit_losses: Tensor) -> Tensor:
        """One scalar from the losses ``(E,)`` of the exits, first to last."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Name and arguments as plain values, without which a run cannot go on; arguments are kept as attributes."""
        arguments = {name: getattr(self, name, None) for name in signature(type(self)).parameters}
        return {"class_path": type(self).__name__, **arguments}

    def attach(self, parts: Parts) -> None:
        """Learn the model; called once, before the first step."""

    def stages(self) -> list[float]:
        """Shares of the fit's steps; the learning rate warms up and falls in each of them anew."""
        return [1.0]

    def trains_encoder(self) -> list[bool]:
        """For each stage whether it trains the encoder; the first always does."""
        return [True] * len(self.stages())

    def enter(self, stage: int) -> None:
        """A stage begins, 0 being the first; called before its first step, and after resuming in it."""

    def balance(self) -> None:
        """All gradients have arrived, and are to be weighed; called before each step of the optimiser, and clipping."""

    def frozen(self) -> list[nn.Parameter]:
        """What this stage must leave bit-identical."""
        return []
