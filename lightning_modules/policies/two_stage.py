"""Two-stage training: the encoder under its last exit, then the exits alone (DeeBERT)."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.policies.policy import ExitPolicy, Parts


class TwoStage(ExitPolicy):
    """First the encoder and the last exit, then the exits with the encoder frozen (DeeBERT: Xin et al. 2020).

    The second stage trains the last exit too: it may answer, so it must not be the one that is left as it was. The
    learning rate warms up and falls in each stage.

    Args:
        share: share of the fit's steps that the first stage takes.

    Raises:
        ValueError: ``share`` is not between 0 and 1, both excluded.
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 < share < 1:
            raise ValueError(
                f"`policy.share` must lie between 0 and 1, both excluded, but got {share}; "
                "both stages need steps (JointSum trains everything at once)."
            )
        self.share = share
        self.stage = 0

    def attach(self, parts: Parts) -> None:
        """Tell the encoder from the exits."""
        self._parts = parts

    def stages(self) -> list[float]:
        """Shares of the steps."""
        return [self.share, 1.0 - self.share]

    def trains_encoder(self) -> list[bool]:
        """The first stage does."""
        return [True, False]

    def enter(self, stage: int) -> None:
        """From now on this stage's loss and frozen parameters."""
        self.stage = stage

    def loss(self, exit_losses: Tensor) -> Tensor:
        """The last exit's loss, then the sum of all ``(E,)``."""
        return exit_losses[-1] if self.stage == 0 else exit_losses.sum()

    def frozen(self) -> list[nn.Parameter]:
        """All exits but the last, then everything but the exits."""
        if self.stage == 1:
            return self._parts.backbone
        return [parameter for head in self._parts.heads[:-1] for parameter in head.parameters()]
