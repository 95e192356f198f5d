"""MACs of encoders that drop tokens: piecewise in the row's length, exact, from a handful of counts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from dial.costs.fitting import parabola
from dial.costs.macs import count_macs
from dial.models.lengths import Lengths
from dial.tiers.model_inputs import longest
from dial.tiers.tier import Tier

ROW = 16  # tokens of the row that is counted
TRIALS = ((13, (11, 7)), (16, (15, 2)))  # rows and what their layers keep, first and last, that prove the formula


class LayerCosts:
    """MACs of a path as a function of the tokens that each layer keeps.

    A layer's attention costs a quadratic of the tokens that the layer before handed on, its feed-forward network a
    linear function of those it keeps, and what is around the layers a function of the row. So the MACs are
    ``r(n) + sum over layers l of b_l k_l + c_l k_l^2`` for a row of ``n`` tokens of which layer ``l`` keeps ``k_l``.
    The coefficients follow from counts of fvcore, in rational numbers, and two other counts must come out exactly.

    Args:
        tier: whose rows the path reads.
        path: with ``lengths``, a whole configuration; see :meth:`~dial.tiers.tier.Tier.path`.

    Raises:
        ValueError: the formula does not state the counts, or the model's rows are too short to tell.
    """

    def __init__(self, tier: Tier, path: nn.Module) -> None:
        self.tier, self._path, self._counts = tier, path, {}  # type: ignore[var-annotated]
        self.depth = len(path.lengths.values)  # type: ignore[union-attr, arg-type]
        row = longest(tier.tokenizer, tier.model, ROW)[0]
        self.points = (row // 3, 2 * row // 3, row)
        if row < ROW:
            raise ValueError(f"rows of at most {row} tokens are too short for a formula of costs.")
        for alike in (True, False):  # layers in between are mostly alike; those of a slender model are not
            self.linear, self.square = self._layers(alike)
            self.rest = parabola([(n, self._count(n, [n] * self.depth) - self._dropped(n)) for n in self.points])
            if all(self._states(n, np.linspace(*ends, self.depth).astype(int).tolist()) for n, ends in TRIALS):
                return
        raise ValueError(f"the MACs of {type(tier.model).__name__} are no sum over its layers.")

    def __call__(self, tokens: ArrayLike, lengths: Lengths) -> NDArray[np.float64]:
        """MACs ``(B,)`` of rows of so many tokens ``(B,)``."""
        own = np.maximum(np.asarray(tokens, dtype=np.int64), 1)
        kept = lengths.kept(own).astype(np.float64)
        a, b, c = map(float, self.rest)
        linear, square = (np.array(list(map(float, values)))[:, None] for values in (self.linear, self.square))
        return a + own * (b + own * c) + (kept * (linear + kept * square)).sum(axis=0)  # type: ignore[no-any-return]

    def _count(self, tokens: int, kept: Sequence[int]) -> int:
        key = (tokens, *kept)
        if key not in self._counts:
            path: Any = copy.copy(self._path)
            path.lengths = Lengths(tuple(kept))
            self._counts[key] = count_macs(path, self.tier.example(tokens))
        return int(self._counts[key])

    def _from(self, layer: int, kept: int) -> int:
        """MACs of the longest row where a layer, from 0, and all behind it keep so many tokens."""
        row = self.points[-1]
        return self._count(row, [row] * layer + [kept] * (self.depth - layer))

    def _layers(self, alike: bool) -> tuple[list[Fraction], list[Fraction]]:
        """Linear and quadratic coefficients of each layer.

        Args:
            alike: all layers but the last have the same.
        """
        few, more, row = self.points
        solved = []
        starts = sorted({0, self.depth - 1}) if alike else list(range(self.depth))
        for layer, following in zip(starts, [*starts[1:], self.depth], strict=True):
            # What is saved by keeping few or more of the tokens in the layers up to the next start, each its share.
            a, b = (Fraction(self._from(following, k) - self._from(layer, k), following - layer) for k in (few, more))
            square = (a / (row - few) - b / (row - more)) / (few - more)
            solved += [(a / (row - few) - square * (row + few), square)] * (following - layer)
        return [linear for linear, _ in solved], [square for _, square in solved]

    def _dropped(self, kept: int) -> Fraction:
        """MACs of all layers that keep so many tokens, without what is around them."""
        return sum((b * kept + c * kept**2 for b, c in zip(self.linear, self.square, strict=True)), Fraction(0))

    def _states(self, tokens: int, kept: Sequence[int]) -> bool:
        """Whether the formula gives a count exactly."""
        a, b, c = self.rest
        layers = zip(self.linear, self.square, kept, strict=True)
        return a + tokens * (b + tokens * c) + sum(x * k + y * k**2 for x, y, k in layers) == self._count(tokens, kept)
