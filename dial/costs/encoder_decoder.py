"""What writing an answer costs: decoding steps counted by fvcore, as an exact polynomial in source and target length.

With n tokens read and t steps of the decoder, one for each piece and the end of the text among them:

* once: keys and values of the source for every layer, linear in n;
* each step: projections, feed-forward layers and the head to the vocabulary, constant; attention over the source,
  linear in n; attention over the pieces so far, linear in the step. Their sum over t steps is quadratic in t.

So writing costs ``a + b n + (c + d n) t + e t²`` MACs, whatever the architecture, as long as it attends to everything
and keeps what it has computed. The polynomial goes through the steps of two short generations, and must reproduce a
third exactly. Beams are executed side by side: k of them cost k times as much, as ``generate`` of
transformers computes keys and values of the source for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dial.costs.macs import count_steps
from dial.tiers.tier import Tier

Writing = tuple[float, float, float, float, float]


def writing_cost(tier: Tier, longest: int) -> Writing:
    """Coefficients of :attr:`~dial.costs.functions.CostFunction.writing` of a tier that writes.

    Args:
        tier: what to count.
        longest: tokens of the longest source that will be asked for, at most those that the model takes.

    Raises:
        ValueError: no such polynomial holds.
    """

    def count(length: int, pieces: int) -> list[int]:
        path = tier.writing_path(pieces)
        return count_steps(path, path.example(length))

    return fit_writing(count, longest)


def fit_writing(count: Callable[[int, int], Sequence[int]], longest: int) -> Writing:
    """The polynomial of the module's first lines through five steps, if it reproduces three others exactly.

    Args:
        count: MACs of each step of writing so many pieces about a source of so many tokens; called three times, for
            eight steps in all.
        longest: tokens of the longest source.

    Raises:
        ValueError: it does not.

    Example:
        >>> fit_writing(lambda n, t: [100 + 2 * n + step + (3 * n if step == 1 else 0) for step in range(1, t + 1)], 64)
        (0.0, 3.0, 100.5, 2.0, 0.5)
    """
    high = max(longest, 8)
    low, middle = max(2, high // 4), (high // 4 + high) // 2
    first, second, third = count(low, 3)
    far_first, far_second = count(high, 2)
    e = (third - second) / 2
    d = (far_second - second) / (high - low)
    c = second - 3 * e - d * low
    b = (far_first - first) / (high - low) - d
    a = first - e - c - (b + d) * low
    coefficients = (a, b, c, d, e)
    counted = sum(count(middle, 3))
    expected = a + b * middle + 3 * (c + d * middle + 3 * e)
    if expected != counted:
        raise ValueError(
            "writing must be a + b n + (c + d n) t + e t² multiply-adds for n tokens read and t pieces written, but "
            f"{counted} were counted for n = {middle}, t = 3, not {expected:.0f}; take a model whose decoder attends "
            "to all tokens and keeps its keys and values."
        )
    return coefficients
