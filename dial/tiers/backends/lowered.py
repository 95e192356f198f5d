"""Another precision in torch than that of a tier's own weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from dial.machine import has_bf16
from dial.tiers.precision import cast_encoder
from dial.tiers.tier import Tier

logger = logging.getLogger(__name__)


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
        tier: computed by torch.
        dtype: see :data:`~dial.tiers.precision.Dtype`.

    Raises:
        ValueError: the encoder or the machine cannot compute in it.
    """
    twin = copy.deepcopy(tier)
    twin.compute_with(None)
    cast_encoder(twin.model, dtype, tier.name)
    return [TorchPart(part, dtype) for part in twin.eval().segments()]


def replace_emulated(tiers: Iterable[Tier], device: torch.device | str, in_place: bool = False) -> None:
    """Have tiers in bf16 computed in float32 where a CPU has no instructions for bf16, and say so once.

    torch computes bf16 there in pieces, at a third of the speed of float32, and at a sixtieth with AVX2 alone. Weights
    stay rounded as they are, and so does the tier's fingerprint.

    Args:
        tiers: as they were loaded; none that learns.
        device: where they run.
        in_place: for teachers, whose hidden states are asked for as well, which no twin gives. So it is done, whatever
            is asked for, with tiers that no other parts can compute: that write, find spans or drop tokens.
    """
    if torch.device(device).type != "cpu" or has_bf16():
        return
    for tier in tiers:
        if tier.view.dtype == "bfloat16" and tier.parts is None:
            if not in_place and tier.segments():
                tier.compute_with(lowered(tier, "float32"))
            else:
                tier.known_fingerprint = tier.fingerprint
                for parameter in tier.model.parameters():
                    parameter.data = parameter.data.float()
            _say("bfloat16 is computed in float32 here: this processor has no instructions for it.")


@cache
def _say(text: str) -> None:
    logger.warning("%s", text)
