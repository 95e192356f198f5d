"""Backends that are installed, and texts for tiers that they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial.tiers.backends.names import missing_package
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokeniser

Make = Callable[..., Path]
BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(bool(lacking := missing_package(name)), reason=f"{lacking} is not installed")
    )
    for name in ("openvino", "onnxruntime")
]
UNITS: list[Any] = [
    "a good film", ("the plot was dull", "and the cast is not great"), "fine", "so very bad of the film and dull cast",
    "a", ("poor", "so poor"),
]  # fmt: skip


def outputs(tier: Tier, units: list[Any], size: int) -> np.ndarray:
    """Logits ``(N, E, C)`` in batches of a size."""
    tokeniser = Tokeniser(tier.eval())
    rows = tokeniser(units)
    with torch.inference_mode():
        return torch.cat([tier(tokeniser.collate(rows[i : i + size])) for i in range(0, len(rows), size)]).numpy()
