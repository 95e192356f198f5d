"""Tables in Markdown, and the marked places of a page that they are written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dial.files import atomic_write


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table.

    Example:
        >>> print(grid(["task", "rows"], [["rte", "277"]]))
        | task | rows |
        | --- | --- |
        | rte | 277 |
    """
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.5), percent(None)
    ('50.0', '–')
    """
    return "–" if value is None else f"{100 * value:.{digits}f}"


def code(lines: Sequence[object]) -> str:
    """Lines as they are typed."""
    return "\n".join(["```", *map(str, lines), "```"])


def fill(page: Path, texts: Mapping[str, str]) -> None:
    """Put texts between `<!-- NAME -->` and `<!-- end NAME -->` in a file; everything else in it stays.

    Args:
        page: file with the markers, which stay.
        texts: by name.

    Raises:
        ValueError: a marker is missing; the file is left as it was.
    """
    content = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        if content.count(begin) != 1 or content.count(end) != 1:
            raise ValueError(
                f"`page` must hold {begin.strip()} and {end} once each, but {page.name} does not; add them."
            )
        head, rest = content.split(begin)
        content = f"{head}{begin}{text}\n{end}{rest.split(end)[1]}"
    with atomic_write(page) as temporary:
        temporary.write_text(content, encoding="utf-8")
