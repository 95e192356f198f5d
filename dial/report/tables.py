"""Numbers and aligned tables as plain text."""

from collections.abc import Sequence

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns, the first ``left`` to the left and the others to the right.

    Example:
        >>> print(table(["tier", "rows"], [["swift", "12"], ["super", "3"]]))
          tier   rows
          swift    12
          super     3
    """
    lines = [list(map(str, cells)) for cells in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if i < left else ">" for i in range(len(widths))]
    aligned = [[f"{c:{side}{width}}" for c, side, width in zip(cells, sides, widths, strict=True)] for cells in lines]
    return "\n".join(("  " + "  ".join(cells)).rstrip() for cells in aligned)


def amount(value: float | None) -> str:
    """A count with three figures and a prefix.

    Example:
        >>> amount(11_174_000_000.0), amount(685_022), amount(None)
        ('11.2 G', '685 k', '–')
    """
    if value is None:
        return "–"
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:#.3g}".rstrip(".") + f" {prefix}"
    return f"{value:.3g}"


def budget(value: float | None, unit: str) -> str:
    """A budget in its unit.

    Example:
        >>> budget(2.5e9, "MACs"), budget(12.0, "ms")
        ('2.50 GMAC', '12 ms')
    """
    return amount(value) + ("MAC" if unit == "MACs" else " ms")


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage, a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def with_interval(
    value: float | None, interval: Sequence[float] | None, scale: float = 1.0, digits: int = 2, sign: str = ""
) -> str:
    """A number with its interval in brackets.

    Example:
        >>> with_interval(2.414, (1.9, 3.0)), with_interval(None, None)
        ('2.41 [1.90, 3.00]', '–')
    """
    if value is None:
        return "–"
    number = f"{scale * value:{sign}.{digits}f}"
    if interval is None:
        return number
    return f"{number} [{scale * interval[0]:{sign}.{digits}f}, {scale * interval[1]:{sign}.{digits}f}]"
