"""Length configurations: how many tokens of a row each layer keeps (Kim and Cho 2021, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

LEFT_OUT = "leave `lengths` out for a model that keeps all tokens"
LEAST = 1e-4  # share with which models are trained: the first token alone


@dataclass(frozen=True)
class Lengths:
    """Tokens that each layer hands on, as shares of the row's own tokens or, as in the paper, as numbers of tokens.

    A layer's attention reads all tokens that the layer before handed on; its feed-forward network and all later layers
    read those it keeps. Shares are of the row itself, special tokens included and padding not, rounded up: what a row
    keeps does not depend on its batch, and a short row saves as large a share as a long one. A number is an upper
    limit: rows that are shorter keep all they have.

    Args:
        values: one for each layer, first to last, none above the one before. All are whole numbers of tokens from 1, or
            one at least is a float and all are shares above 0 up to 1.

    Raises:
        ValueError: a value is outside its range or above the one before.

    Example:
        >>> Lengths((1, 0.75, 0.5)).kept([8, 5]).tolist()
        [[8, 5], [6, 4], [4, 3]]
        >>> Lengths((8, 6, 4)).kept([8, 5]).tolist()
        [[8, 5], [6, 5], [4, 4]]
        >>> Lengths((0.5, 0.6))
        Traceback (most recent call last):
            ...
        ValueError: `lengths` must not rise from layer to layer, as tokens that were dropped do not come back before
        the end, but layer 2 has 0.6 after 0.5.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        given = self.values
        if not given or not all(isinstance(x, Real) and not isinstance(x, bool) and np.isfinite(x) for x in given):
            raise ValueError(f"`lengths` must be one number for each layer, but got {list(given)}; {LEFT_OUT}.")
        if any(x <= 0 or (self.are_shares and x > 1) for x in given):
            raise ValueError(
                "`lengths` must be shares of a row's tokens above 0 up to 1 (0.5), or whole numbers of tokens from 1 "
                f"(64), but got {list(given)}."
            )
        for layer, (before, value) in enumerate(pairwise(given), 2):
            if value > before:
                raise ValueError(
                    "`lengths` must not rise from layer to layer, as tokens that were dropped do not come back before "
                    f"the end, but layer {layer} has {value} after {before}."
                )

    @classmethod
    def parse(cls, values: Any) -> Lengths:
        """A configuration from a list, as a user may write it.

        Raises:
            ValueError: as for the class.
        """
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"`lengths` must be a list of one number for each layer, but got {values!r}; {LEFT_OUT}.")
        return cls(tuple(values))

    @property
    def are_shares(self) -> bool:
        """Whether they are shares of a row's own tokens, and not numbers of tokens."""
        return any(not isinstance(value, int | np.integer) for value in self.values)

    def kept(self, tokens: ArrayLike) -> NDArray[np.int64]:
        """Tokens ``(L, B)`` that each layer keeps of rows of so many tokens ``(B,)``, 1 at least."""
        own = np.asarray(tokens, dtype=np.int64)[None, :]
        values = np.asarray(self.values)[:, None]
        if not self.are_shares:
            return np.maximum(np.minimum(own, values.astype(np.int64)), 1)
        # 0.07 * 100 is 7.000000000000001 in floating point.
        return np.maximum(np.ceil(np.round(values * own, 6)).astype(np.int64), 1)

    def check(self, depth: int, longest: int, argument: str) -> None:
        """Refuse a configuration that does not fit a model.

        Args:
            depth: layers of the model.
            longest: tokens that are kept of a text or pair.
            argument: how the user calls the model.

        Raises:
            ValueError: another number of layers, or more tokens than a row can have.
        """
        if len(self.values) != depth:
            raise ValueError(
                f"`{argument}`: `lengths` must hold one number for each of the {depth} layers, but got "
                f"{len(self.values)}: {list(self.values)}."
            )
        if not self.are_shares and self.values[0] > longest:
            raise ValueError(
                f"`{argument}`: `lengths` must not be longer than the input of at most {longest} tokens "
                f"(`max_length`), but layer 1 has {self.values[0]}; write shares of a row's own tokens (1.0 for all)."
            )

    def plain(self) -> list[float]:
        """As plain values."""
        return [int(v) if isinstance(v, int | np.integer) else float(v) for v in self.values]


@dataclass(frozen=True)
class LengthDrop:
    """Configurations to train with: each layer keeps a share of what the layer before kept (Kim and Cho 2021, 3.1).

    Args:
        depth: layers of the model.
        length_drop: share that a layer drops at most, above 0 and below 1.
        drawn: configurations drawn at random in each step.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> LengthDrop(3, 0.2).shortest.values
        (0.8, 0.64, 0.512)
    """

    depth: int
    length_drop: float
    drawn: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.length_drop < 1:
            raise ValueError(f"`length_drop` must be above 0 and below 1, but got {self.length_drop}.")
        if self.drawn < 0:
            raise ValueError(f"`drawn` must be 0 or more models, but got {self.drawn}.")

    @property
    def shortest(self) -> Lengths:
        """The one that drops as much as may be."""
        return self._of(torch.full((self.depth,), 1 - self.length_drop))

    def draw(self) -> Lengths:
        """One at random."""
        return self._of(1 - self.length_drop * torch.rand(self.depth))

    def of_step(self) -> list[Lengths]:
        """Those of one step beside the whole model: the shortest, and some at random (the sandwich rule)."""
        return [self.shortest, *(self.draw() for _ in range(self.drawn))]

    @staticmethod
    def _of(kept_of_before: Tensor) -> Lengths:
        shares = kept_of_before.double().cumprod(0).tolist()
        return Lengths(tuple(max(LEAST, round(share, 4)) for share in shares))


def check_asked(lengths: Any) -> None:
    """Refuse what a tier's spec cannot have as ``lengths``: neither a configuration nor a share of the MACs.

    Raises:
        ValueError: as for :class:`Lengths`, a number that is no share, or one token for all layers.
    """
    if isinstance(lengths, Real) and not isinstance(lengths, bool):
        if not 0 < float(lengths) <= 1:
            raise ValueError(f"`lengths` must be a share of the MACs above 0 up to 1, or a list, but got {lengths}.")
    elif lengths is not None:
        parsed = Lengths.parse(lengths)
        if not parsed.are_shares and parsed.values[0] == 1:
            raise ValueError(
                f"`lengths` must leave more than one token behind the first layer, but got {parsed.plain()}, which are "
                "whole numbers of tokens; write 1.0 for all of a row's own."
            )
