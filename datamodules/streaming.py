"""Texts of a file larger than memory, one after the other, with what is wrong about each row that is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.byte_sources import Stream
from datamodules.row_files import FileRow
from datamodules.row_formats import TEXT_COLUMN, PlainTextFile, open_rows, open_stream


class StreamedRow(NamedTuple):
    """A row of a file.

    Attributes:
        number: among the file's rows, from 0; rows that are no text count.
        place: what a person looks for: ``line 3`` or ``row 2``.
        unit: the text, or the pair; None where the row has none.
        problem: why, then; else empty.
        lines: of the file that it takes.
    """

    number: int
    place: str
    unit: str | tuple[str, str] | None
    problem: str = ""
    lines: int = 1


class TextFile:
    """The texts of a file of rows, read as a stream.

    Args:
        path: the file; its suffix tells the format (see :mod:`datamodules.row_formats`).
        columns: of the text, or of both texts of a pair. Default: ``text``, or the only column there is.
        argument: how the user calls the path.
        columns_argument: how the user calls the columns.
        stream: what to read instead of a file.
        stream_format: suffix of its format; None to tell it from its first line.

    Raises:
        ValueError: no such file, an unknown format, a missing column, or one that cannot hold texts.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str] | None = None,
        argument: str = "path",
        columns_argument: str = "columns",
        stream: Stream | None = None,
        stream_format: str | None = None,
    ) -> None:
        if stream is None:
            self._file = open_rows(Path(path).expanduser(), argument)
        else:
            self._file = open_stream(stream, argument, stream_format, columns or [])
        self.path, self.format = self._file.path, self._file.format
        self.columns = self._choose(list(columns or []), columns_argument)
        self._texts = self.columns or [TEXT_COLUMN]
        self._file.require(self._texts)

    def rows(self, start: int = 0, last: bool = False) -> Iterator[StreamedRow]:
        """Rows in their order.

        Args:
            start: number of the first row to give.
            last: nobody reads them again, so that of a stream nothing is kept.

        Raises:
            ValueError: the file itself cannot be read.
        """
        self._file.last = last
        for number, place, values, problem, lines in self._file.rows(self._texts, start=start):
            unit = None if values is None else values[0] if len(values) == 1 else (values[0], values[1])
            yield StreamedRow(number, place, unit, problem, lines)

    def refusal(self, row: StreamedRow, remedy: str) -> ValueError:
        """The error about a row that has no text."""
        return self._file.refusal(FileRow(row.number, row.place, None, row.problem), remedy)

    def _choose(self, columns: list[str], argument: str) -> list[str]:
        if isinstance(self._file, PlainTextFile):
            if columns:
                raise ValueError(f"`{argument}` must be left out for a plain text file, but got {', '.join(columns)}.")
            return []
        present = self._file.names
        unknown = self.format == "jsonl" and not present  # empty, or a first line that is reported when it is read
        if not columns:
            columns = [TEXT_COLUMN] if TEXT_COLUMN in present or unknown else present[:1] if len(present) == 1 else []
        missing = [] if unknown else [name for name in columns if name not in present]
        if not columns or len(columns) > 2 or missing:
            got = ", ".join(columns) if len(columns) > 2 else missing[0] if missing else "nothing"
            raise ValueError(
                f"`{argument}` must name the column of the text, or those of both texts of a pair, among "
                f"{', '.join(present) or 'none'} of {self.path}, but got {got}."
            )
        return columns
