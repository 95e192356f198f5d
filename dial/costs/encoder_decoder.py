"""What writing an answer costs: decoding steps counted by fvcore, as an exact polynomial in source and target length.

With n tokens read and t steps of the decoder, one for each piece and the end of the text among them:

* once: keys and values of the source for every layer, linear in n;
* each step: projections, feed-forward layers and the head to the vocabulary, constant; attention over the source,
  linear in n; attention over the pieces so far, linear in the step. Their sum over t steps is quadratic in t.

So writing costs ``a + b n + (c + d n) t + e t²`` MACs, whatever the architecture, as long as it attends to everything
and keeps what it has computed. The polynomial goes through counts of whole generations of up to three steps, and must
reproduce another one exactly. Beams are executed side by side: k of them cost k times as much, as ``generate`` of
transformers computes keys and values of the source for each.
"""

from __future__ import annotations

from collections.abc import Callable

from dial.costs.macs import count_macs
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

    def count(length: int, pieces: int) -> int:
        path = tier.writing_path(pieces)
        return count_macs(path, path.example(length))

    return fit_writing(count, longest)


def fit_writing(count: Callable[[int, int], int], longest: int) -> Writing:
    """The polynomial of the module's first lines through five counts, if it reproduces a sixth exactly.

    Args:
        count: MACs of writing so many pieces about a source of so many tokens; called six times.
        longest: tokens of the longest source.

    Raises:
        ValueError: it does not.

    Example:
        >>> fit_writing(lambda n, t: 3 * n + t * (100 + 2 * n) + t * (t + 1) // 2, 64)
        (0.0, 3.0, 100.5, 2.0, 0.5)
    """
    high = max(longest, 8)
    low, middle = max(2, high // 4), (high // 4 + high) // 2
    one, two, three = (count(low, pieces) for pieces in (1, 2, 3))
    far_one, far_two = (count(high, pieces) for pieces in (1, 2))
    e = (three - 2 * two + one) / 2
    at_low, at_high = two - one - 3 * e, far_two - far_one - 3 * e  # of one more piece: c + d n
    d = (at_high - at_low) / (high - low)
    c = at_low - d * low
    b = (far_one - one) / (high - low) - d
    a = one - e - at_low - b * low
    coefficients = (a, b, c, d, e)
    expected, counted = a + b * middle + 3 * (c + d * middle + 3 * e), count(middle, 3)
    if expected != counted:
        raise ValueError(
            "writing must be a + b n + (c + d n) t + e t² multiply-adds for n tokens read and t pieces written, but "
            f"{counted} were counted for n = {middle}, t = 3, not {expected:.0f}; take a model whose decoder attends "
            "to all tokens and keeps its keys and values."
        )
    return coefficients
