"""An exit policy in one file: only the last two exits are trained."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.policies import ExitPolicy


class LastTwo(ExitPolicy):
    """The sum of the last two exits' losses.

    Args:
        weight: of the last but one.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def loss(self, exit_losses: Tensor) -> Tensor:
        """See :class:`ExitPolicy`."""
        return exit_losses[-1] + self.weight * exit_losses[-2]
