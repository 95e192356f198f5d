"""What an executor is asked to do at once, what it has done, and what a row got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dial.tiers.tier import Tier

# Of torch's allocator on a CPU, of CUDA itself, and of cuBLAS and cuDNN, which torch does not raise as its own error.
MEMORY_SIGNS = ("can't allocate memory", "cuda error: out of memory", "cuda out of memory", "status_alloc_failed")
BATCH_SIZE = 32  # where nothing better is known


class Answer(NamedTuple):
    """What one row got.

    Attributes:
        id: of the row; its position in the input unless it came with one.
        stage: position of the stage that answered.
        prediction: class, or for regression the value.
        probability: of the class, at the stage's temperature; NaN for regression.
        score: at that stage; NaN where the last stage has none.
        macs: spent on the row; NaN where costs are not known.
        reference: MACs of the reference without routing; NaN where costs are not known.
        outputs: ``(C,)`` logits.
        truncated: names of the tiers that read the row cut to their maximum length.
        length: tokens of the row for the first tier that ran.
        text: that a decoder wrote; None where none did.
        limited: whether the text was cut off by the limit of its length.
        generated: steps that the decoder took for it.
        span: first character of the text in what was read and the one behind it; -1 for "no answer"; None of a decoder.
    """

    id: int
    stage: int
    prediction: float
    probability: float
    score: float
    macs: float
    reference: float
    outputs: np.ndarray
    truncated: tuple[str, ...] = ()
    length: int = 0
    text: str | None = None
    limited: bool = False
    generated: int = 0
    span: tuple[int, int] | None = None


@dataclass
class Work:
    """What one tier has done.

    Attributes:
        rows: computed.
        batches: computed.
        seconds: in the model and in the decisions.
        tokens: of the rows, without padding.
        padded: tokens of the batches, padding included.
    """

    rows: int = 0
    batches: int = 0
    seconds: float = 0.0
    tokens: int = 0
    padded: int = 0


def check_batch_sizes(given: int | Mapping[str, int] | None, tiers: Sequence[Tier]) -> dict[str, int]:
    """The batch size of every tier.

    Args:
        given: for all, or by name; None for those of the views, else 32.
        tiers: of the staged model.

    Raises:
        ValueError: an unknown tier, or a number below 1.
    """
    names = [tier.name for tier in tiers]
    asked = dict.fromkeys(names, given) if isinstance(given, int) else dict(given or {})
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise ValueError(f"`batch_sizes` allows the tiers {', '.join(names)}, but got {', '.join(unknown)}.")
    sizes = {}
    for tier in tiers:
        size = asked.get(tier.name, tier.view.batch_size or BATCH_SIZE)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"`batch_sizes` must be whole numbers from 1 up, but got {size!r} for {tier.name}.")
        sizes[tier.name] = size
    return sizes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of a GPU or of the machine."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in MEMORY_SIGNS)
