"""Files of rows, read as a stream: the one reader of what is trained on, tested on and predicted."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.byte_sources import Stream


class FileRow(NamedTuple):
    """A row of a file.

    Attributes:
        number: among the file's rows, from 0; broken ones count.
        place: what a person looks for: ``line 3`` or ``row 2``.
        values: of the columns asked for; None where the row is broken, or a text is none.
        problem: why, then; else empty.
        lines: of the file that it takes; many where a quote is not closed.
    """

    number: int
    place: str
    values: list[Any] | None
    problem: str = ""
    lines: int = 1


class RowFile(ABC):
    """A file whose rows have columns with names.

    Args:
        path: the file, which exists.
        argument: how the user calls it.
        stream: what to read instead of the file; ``path`` is what errors call it then.

    Attributes:
        names: of the columns, in the file's order; empty where a file of JSON lines does not tell.
        last: the next reading is the last one, so that a stream need not be kept.

    Raises:
        ValueError: the file is of another format, or its header cannot be read.
    """

    format = ""

    def __init__(self, path: Path, argument: str, stream: Stream | None = None) -> None:
        self.path, self.argument, self._stream = path, argument, stream
        self.last = False
        self.names = self._names()

    def require(self, texts: Sequence[str], others: Sequence[str] = ()) -> None:
        """Refuse a file without these columns, before any row is read.

        Args:
            texts: columns that must hold texts.
            others: columns of any content.

        Raises:
            ValueError: a column is missing, occurs twice, or cannot hold texts; names the file and the column.
        """
        for name in [*texts, *others]:
            shown = ", ".join(map(repr, self.names)) or "none"
            if self.names.count(name) > 1:
                raise ValueError(
                    f"`{self.argument}` must have one column {name!r}, but {self.path} has {shown}. Rename the others."
                )
            if name not in self.names and not self._open_ended():
                raise ValueError(
                    f"`{self.argument}` must have the column {name!r}, but {self.path} has {shown}. "
                    "Rename the column or name another."
                )

    def rows(self, texts: Sequence[str], others: Sequence[str] = (), start: int = 0) -> Iterator[FileRow]:
        """Rows in their order, with the values of ``texts`` and then of ``others``.

        Args:
            texts: columns whose values must be texts; a row where one is none has a problem instead of values.
            others: columns whose values are given as they are.
            start: number of the first row to give.

        Raises:
            ValueError: the file itself cannot be read.
        """
        for row in self._read([*texts, *others], start):
            if row.values is not None:
                problems = (text_problem(value, name) for value, name in zip(row.values, texts, strict=False))
                problem = next(filter(None, problems), "")
                yield FileRow(row.number, row.place, None, problem, row.lines) if problem else row
            else:
                yield row

    def refusal(self, row: FileRow, remedy: str = "correct the file.") -> ValueError:
        """The error about a row that has a problem."""
        return ValueError(f"`{self.argument}` {self.path}, {row.place}: {row.problem}; {remedy}")

    def _open_ended(self) -> bool:
        """Whether rows may have columns that :attr:`names` lacks."""
        return False

    @abstractmethod
    def _names(self) -> list[str]:
        """Columns that the file has."""

    @abstractmethod
    def _read(self, columns: list[str], start: int) -> Iterator[FileRow]:
        """Rows from ``start`` on with the values of ``columns``, whatever these are."""


def text_problem(value: object, column: str) -> str:
    """What is wrong with a value that is to be a text; empty if nothing is.

    Example:
        >>> text_problem("a film", "text"), text_problem(None, "text")
        ('', "must have a text as 'text', but has null")
    """
    if not isinstance(value, str):
        return f"must have a text as {column!r}, but has {_shown(value)}"
    return "" if value.isascii() or is_unicode(value) else "has half of a surrogate pair, which is no text"


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    """A value as JSON writes it, where JSON can, cut to 60 characters."""
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # bytes, dates, …
        shown = repr(value)
    shown = shown if is_unicode(shown) else ascii(shown)
    return shown if len(shown) < 60 else shown[:57] + "..."
