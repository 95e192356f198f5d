"""Fits of cost functions: from counts at a handful of lengths to the MACs of every length, exactly."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from dial.costs.functions import CostFunction


def fit_cost(count: Callable[[int], int], lengths: Iterable[int]) -> CostFunction:
    """The quadratic through three counts where it reproduces two others exactly, else a count for every length.

    The lengths counted first span those asked for. One of the two that check lies next to one that was fitted, as
    a rounded length (tokens kept, blocks filled) agrees with a smooth curve far apart, but not at neighbours.

    Args:
        count: MACs of one example of the given length; called at most once per length, with lengths between 1 and
            the longest asked for.
        lengths: all lengths that will be asked for, repeats allowed, padded and fixed ones included; 0 is taken as 1.

    Raises:
        ValueError: where there is no length, or a negative one.

    Example:
        >>> fit_cost(lambda length: 3 * length + length**2, [128])
        CostFunction(coefficients=(0.0, 3.0, 1.0), counts=None, writing=None, window=None)
        >>> fit_cost(lambda length: 4 * (length // 2), [6, 7]).counts
        {6: 12, 7: 12}
    """
    distinct = sorted({int(length) for length in lengths})
    if not distinct or distinct[0] < 0:
        raise ValueError(f"lengths must be one or more numbers of tokens; got {distinct[:3]}.")
    distinct = sorted({max(length, 1) for length in distinct})
    known: dict[int, int] = {}

    def counted(length: int) -> int:
        if length not in known:
            known[length] = int(count(length))
        return known[length]

    high = distinct[-1]
    low = min(distinct[0], max(1, high // 4))  # lengths close together would tell little
    if high - low >= 6:
        middle = (low + high) // 2
        coefficients = _quadratic([(n, counted(n)) for n in (low, middle, high)])
        checks = (high - 1, (low + middle) // 2)
        if coefficients and all(_value(coefficients, n) == counted(n) for n in checks):
            a, b, c = map(float, coefficients)
            return CostFunction(coefficients=(a, b, c))
    return CostFunction(counts={length: counted(length) for length in distinct})


def parabola(points: Sequence[tuple[int, int | Fraction]]) -> tuple[Fraction, Fraction, Fraction]:
    """Exact ``(a, b, c)`` of ``a + b x + c x^2`` through three points, by divided differences.

    >>> [int(value) for value in parabola([(1, 6), (2, 11), (3, 18)])]
    [3, 2, 1]
    """
    (x0, y0), (x1, y1), (x2, y2) = points
    first, second = Fraction(y1 - y0) / (x1 - x0), Fraction(y2 - y1) / (x2 - x1)
    c = (second - first) / (x2 - x0)
    b = first - c * (x0 + x1)
    return y0 - x0 * (b + x0 * c), b, c


def _quadratic(points: Sequence[tuple[int, int]]) -> tuple[Fraction, Fraction, Fraction] | None:
    """The parabola through three points; None where some length would give half a MAC."""
    a, b, c = parabola(points)
    whole = all(value.denominator == 1 for value in (a, b + c, 2 * c))  # so it is whole at every length
    return (a, b, c) if whole else None


def _value(coefficients: tuple[Fraction, Fraction, Fraction], length: int) -> Fraction:
    a, b, c = coefficients
    return a + length * (b + length * c)
