"""A look at the first rows of a pass: whether a tier in lower precision answers them as float32 does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from dial.tiers.backends.agreement import SHARE, Agreement, agreement
from dial.tiers.backends.attach import in_torch
from dial.tiers.tier import Encoding, Tier

ROWS = 256


class Comparison:
    """Compares a tier's outputs with those of torch in float32 until enough rows are seen; then says what it saw.

    A tier that torch computes, or another backend in float32, whose export was proved, is not looked at.

    Args:
        tier: with its backend.
        say: gets the line.
        rows: how many are enough.
        share: of answers that must stay in int8.
    """

    def __init__(self, tier: Tier, say: Callable[[str], None] = print, rows: int = ROWS, share: float = SHARE) -> None:
        self.tier, self.say, self.share = tier, say, share
        self._wanted = 0 if tier.computed_by.endswith(("torch", "float32")) else rows
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def see(self, encoding: Encoding, outputs: Tensor) -> None:
        """Take a batch into account, if more rows are wanted.

        Args:
            encoding: tensors ``(B, T)``.
            outputs: what the tier gave, ``(B, E, C)``.

        Raises:
            ValueError: more answers change in int8 than allowed; gives the number.
        """
        if self._wanted <= 0:
            return
        with in_torch(self.tier), torch.inference_mode():
            expected = self.tier(encoding)
        self._pairs.append((outputs.float().cpu().numpy(), expected.float().cpu().numpy()))
        self._wanted -= len(outputs)
        if self._wanted <= 0:
            self.finish()

    def finish(self) -> None:
        """Say what was seen; called by itself once there are enough rows.

        Raises:
            ValueError: see :meth:`see`.
        """
        self._wanted = 0
        if self._pairs:
            found, expected = (np.concatenate(each) for each in zip(*self._pairs, strict=True))
            self._pairs = []
            seen = agreement(found, expected)
            check_allowed(seen, self.tier, self.share)
            self.say(f"{self.tier.name} is computed by {self.tier.computed_by}: {seen}")


def check_allowed(seen: Agreement, tier: Tier, share: float = SHARE) -> None:
    """Refuse int8 where more answers change than allowed, by a one-sided bound of 90 %.

    Raises:
        ValueError: naming ``dtype``, with the number.
    """
    alike = seen.rows - seen.changed
    least = float(betaincinv(seen.changed, alike + 1, 1 - seen.confidence)) if seen.changed else 0.0
    if tier.computed_by.endswith("int8") and least > 1 - share:
        raise ValueError(
            f"`dtype` of {tier.name} must change no more than {1 - share:.1%} of the answers, but in int8 "
            f"{tier.view.backend} answers {seen.changed} of {seen.rows} rows otherwise than float32 "
            f"({seen.changed / seen.rows:.1%}); take float32, or bfloat16 with another backend."
        )
