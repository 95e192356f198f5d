"""Lower precision in torch beside a tier whose own weights stay in float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from dial.tiers.precision import cast_encoder
from dial.tiers.tier import Tier


class TorchPart:
    """A segment of a model, called as a backend's graphs are.

    Args:
        module: takes the encoding's tensors by name.
        dtype: what it computes in.
    """

    def __init__(self, module: nn.Module, dtype: str) -> None:
        self.module, self.name = module, f"torch {dtype}"

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The segment's output in float32."""
        output: Tensor = self.module(**inputs)
        return output.float()


def lowered(tier: Tier, dtype: str) -> list[TorchPart]:
    """Parts that compute a tier in another precision, with weights of their own.

    Args:
        tier: in float32.
        dtype: see :data:`~dial.tiers.precision.Dtype`.

    Raises:
        ValueError: the encoder or the machine cannot compute in it.
    """
    twin = copy.deepcopy(tier)
    twin.compute_with(None)
    cast_encoder(twin.model, dtype, tier.name)
    return [TorchPart(part, dtype) for part in twin.eval().segments()]
