"""Files of rows, read as a stream: the one reader of what is trained on, tested on and predicted."""

from __future__ import annotations

import gzip
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast
from zlib import error as ZlibError

GZIP = ".gz"
STANDARD_INPUT = Path("standard input")  # what errors call it
HEAD = 2**20  # bytes that tell how lines end
SIGNS = {
    b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text", b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive", b"PAR1": "a parquet file",
}  # fmt: skip


class Stream:
    """Bytes that can be read once, such as standard input. What the first looks at them read is kept for the next.

    Args:
        source: an open binary file.
    """

    def __init__(self, source: BinaryIO) -> None:
        self.source, self.kept, self.whole = source, bytearray(), True

    def open(self, last: bool = False) -> BinaryIO:
        """Read from the beginning.

        Args:
            last: nobody reads again, so nothing more is kept.

        Raises:
            ValueError: after the last.
        """
        if not self.whole:
            raise ValueError("standard input can be read once only; give a file.")
        self.whole = not last
        return io.BufferedReader(_Reading(self, last))


class _Reading(io.RawIOBase):
    def __init__(self, stream: Stream, last: bool) -> None:
        self._stream, self._last, self._place = stream, last, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Gives bytes that were kept of the stream before, then reads on, and keeps those for a later reader."""
        kept = self._stream.kept
        if self._place < len(kept):
            content = bytes(kept[self._place : self._place + len(buffer)])
            self._place += len(content)
        else:
            content = cast(io.BufferedReader, self._stream.source).read1(len(buffer))
            if self._last:
                kept.clear()
                self._place = 0
            else:
                kept += content
                self._place += len(content)
        buffer[: len(content)] = content
        return len(content)


def is_gzip(path: Path) -> bool:
    """Whether a file's name says that it is compressed by gzip."""
    return path.suffix.lower() == GZIP


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, one compressed by gzip as what is in it."""
    return cast(IO[bytes], gzip.open(path)) if is_gzip(path) else path.open("rb")


@contextmanager
def whole_gzip(path: Path, argument: str) -> Iterator[None]:
    """Turn what the gzip module raises about a file within this context into one line.

    Raises:
        ValueError: the file is no gzip file, is cut off, or is damaged.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, ZlibError) as error:
        raise ValueError(
            f"`{argument}`: {path} is damaged or not compressed by gzip, and cannot be read to its end: "
            f"{str(error).rstrip('.')}."
        ) from error


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

    @property
    def unit(self) -> Any:
        """The text, or the pair of texts, where these were asked for; None where the row has none."""
        return None if self.values is None else self.values[0] if len(self.values) == 1 else tuple(self.values)


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
            if not self.names and not self._open_ended():
                raise ValueError(
                    f"`{self.argument}` must have the column {name!r}, but {self.path} has no columns, "
                    "as an empty file has. Give another file."
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
            problems = (text_problem(value, name) for value, name in zip(row.values or (), texts, strict=False))
            problem = next(filter(None, problems), "")
            yield row._replace(values=None, problem=problem) if problem else row

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


class LineFile(RowFile):
    """A text file in UTF-8, with or without a byte order mark."""

    newline: str | None = "\n"

    def __init__(self, path: Path, argument: str, stream: Stream | None = None) -> None:
        self._stream, self.last = stream, False
        with whole_gzip(path, argument), closing(self._bytes(path)) as file:
            head = b"".join(_head(file))
        for sign, what in SIGNS.items():
            if head.startswith(sign):
                remedy = f"Name it {path.name}{GZIP}." if sign == b"\x1f\x8b" and not stream else "Convert it."
                raise ValueError(f"`{argument}` must be UTF-8 text, but {path} is {what}. {remedy}")
        self.newline = self._newline(head)
        super().__init__(path, argument, stream)

    def _bytes(self, path: Path) -> IO[bytes]:
        return open_bytes(path) if self._stream is None else self._stream.open(self.last)

    def _newline(self, head: bytes) -> str:
        r"""What ends a line, as :func:`open` takes it: "" is ``\n``, ``\r\n`` or ``\r``.

        Texts hold other separators, so where a line is a row ``\r`` counts only in a file that has nothing else.
        """
        return "" if b"\r" in head and b"\n" not in head else "\n"

    def _lines(self) -> Iterator[tuple[int, str, bool]]:
        """Number from 1, text with its end, and whether it is UTF-8."""
        with (
            whole_gzip(self.path, self.argument),
            io.TextIOWrapper(
                self._bytes(self.path), encoding="utf-8-sig", errors="surrogateescape", newline=self.newline
            ) as file,
        ):
            for number, line in enumerate(file, start=1):
                yield number, line, line.isascii() or is_unicode(line)


def _head(file: IO[bytes]) -> Iterator[bytes]:
    """What a file begins with: a line at least, and more of it where more is there at once."""
    size = 0
    while size < HEAD and (content := file.read1(HEAD - size)):  # type: ignore[attr-defined]
        size += len(content)
        yield content
        if b"\n" in content:
            return


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
