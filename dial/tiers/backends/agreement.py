"""How far a tier answers in another backend, or in lower precision, as it does in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv

from dial.tiers.tier import Encoding, Tier

SHARE, CONFIDENCE = 0.995, 0.9


@dataclass(frozen=True)
class Agreement:
    """What was seen on some rows.

    Attributes:
        rows: how many.
        changed: rows that are answered otherwise at some exit.
        epsilon: the largest difference of an output.
        confidence: of :attr:`at_least`.
    """

    rows: int
    changed: int
    epsilon: float
    confidence: float = CONFIDENCE

    @property
    def at_least(self) -> float:
        """One-sided exact lower bound of the share of rows that are answered alike (Clopper and Pearson 1934).

        Example:
            >>> round(Agreement(rows=460, changed=0, epsilon=0.0).at_least, 4)
            0.995
        """
        alike = self.rows - self.changed
        return float(betaincinv(alike, self.changed + 1, 1 - self.confidence)) if alike else 0.0

    def __str__(self) -> str:
        """In words, as a line of the command has it."""
        return (
            f"{self.changed} of {self.rows:,} answers changed (at least {100 * self.at_least:.2f} % stay, with "
            f"{100 * self.confidence:.0f} % confidence), outputs by at most {self.epsilon:.2g}"
        )


def confidence_of_each(tries: int, confidence: float = CONFIDENCE) -> float:
    """Confidence of each of several bounds, with which all hold at once (Bonferroni's inequality).

    Example:
        >>> round(confidence_of_each(4), 3)
        0.975
    """
    return 1 - (1 - confidence) / tries


def rows_needed(share: float, tries: int = 1, confidence: float = CONFIDENCE) -> int:
    """Rows of which none may change for a share to be promised, of whichever of several tries passes first.

    Example:
        >>> rows_needed(0.995), rows_needed(0.995, tries=4)
        (460, 736)
    """
    return int(np.ceil(np.log(1 - confidence_of_each(tries, confidence)) / np.log(share)))


def agreement(found: np.ndarray, expected: np.ndarray, confidence: float = CONFIDENCE) -> Agreement:
    """Compare outputs ``(N, E, C)`` with those of float32.

    Values of a regression count as alike up to 1 % of their standard deviation. A row with an output that is not finite
    is changed, and tells nothing of how far outputs move.

    Example:
        >>> agreement(np.array([[[0.1, 0.2]], [[0.5, 0.4]]]), np.array([[[0.1, 0.2]], [[0.4, 0.5]]])).changed
        1
    """
    finite = (np.isfinite(found) & np.isfinite(expected)).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        moved = np.abs(found - expected)
    if expected.shape[2] == 1:
        changed = (moved[:, :, 0] > 0.01 * expected[finite].std(axis=0)[:, 0]).any(axis=1) if finite.any() else ~finite
    else:
        changed = (found.argmax(axis=2) != expected.argmax(axis=2)).any(axis=1)
    return Agreement(len(found), int((changed | ~finite).sum()), float(moved[finite].max(initial=0.0)), confidence)


def outputs_of(tier: Tier, batches: Sequence[Encoding]) -> np.ndarray:
    """Outputs ``(N, E, C)`` of encoded rows."""
    with torch.inference_mode():
        return torch.cat([tier(batch) for batch in batches]).numpy()
