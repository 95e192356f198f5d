"""Joint training: the plain sum of all exits' losses."""

from torch import Tensor

from lightning_modules.policies.policy import ExitPolicy


class JointSum(ExitPolicy):
    """All exits and the encoder are trained at once on the sum of the exits' losses (COST-EFF, Eq. 4).

    Example:
        >>> import torch
        >>> JointSum().loss(torch.tensor([1.0, 2.0, 4.0]))
        tensor(7.)
    """

    def loss(self, exit_losses: Tensor) -> Tensor:
        """Sum of the losses ``(E,)``."""
        return exit_losses.sum()
