"""Joint training with weights that grow with depth (PABEE)."""

from torch import Tensor

from lightning_modules.policies.policy import ExitPolicy, Parts


class LayerWeighted(ExitPolicy):
    """Mean of the exits' losses, each weighted by its layer's number (PABEE: Zhou et al. 2020).

    The weight of an exit is the number of the layer that it follows, counted from 1, whichever layers have exits:
    ``sum(k * loss_k) / sum(k)``.
    """

    def attach(self, parts: Parts) -> None:
        """Learn the exits' layers."""
        self.exits = list(parts.exits)

    def loss(self, exit_losses: Tensor) -> Tensor:
        """Weighted mean of the losses ``(E,)``."""
        weights = exit_losses.new_tensor(self.exits)
        return (weights * exit_losses).sum() / weights.sum()
