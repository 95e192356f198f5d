"""Texts of a file larger than memory, one after the other, with what is wrong about each row that is none."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.sources import LONGEST_FIELD

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
TEXT_COLUMN = "text"
BATCH = 1024  # rows of a parquet file that are decoded at a time


class StreamedRow(NamedTuple):
    """A row of a file.

    Attributes:
        number: among the file's rows, from 0; rows that are no text count.
        place: what a person looks for: ``line 3`` or ``row 2``.
        unit: the text, or the pair; None where the row has none.
        problem: why, then; else empty.
    """

    number: int
    place: str
    unit: str | tuple[str, str] | None
    problem: str = ""


class TextFile:
    """A CSV (quoted), TSV (never quoted), JSON-lines, parquet or plain text file (a row per line), read as a stream.

    Args:
        path: the file; its suffix tells the format.
        columns: of the text, or of both texts of a pair. Default: ``text``, or the only column there is.
        argument: how the user calls the path.
        columns_argument: how the user calls the columns.

    Raises:
        ValueError: no such file, an unknown format, or a missing column.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str] | None = None,
        argument: str = "path",
        columns_argument: str = "columns",
    ) -> None:
        self.path, self.argument = Path(path).expanduser(), argument
        if self.path.suffix not in FORMATS:
            raise ValueError(f"`{argument}` must be a file ending in {', '.join(FORMATS)}, but got {str(path)!r}.")
        if not self.path.is_file():
            raise ValueError(f"`{argument}` must be a file that exists, but got {str(path)!r}; check the path.")
        self.format = FORMATS[self.path.suffix]
        self.columns = self._choose(list(columns or []), columns_argument)

    def rows(self, start: int = 0) -> Iterator[StreamedRow]:
        """Rows in their order.

        Args:
            start: number of the first row to give.

        Raises:
            ValueError: the file itself cannot be read.
        """
        if self.format == "parquet":
            yield from self._parquet(start)
            return
        readers = {"csv": self._csv, "tsv": self._tsv, "jsonl": self._json_lines, "text": self._text}
        for row in readers[self.format]():
            if row.number >= start:
                yield row

    def _choose(self, columns: list[str], argument: str) -> list[str]:
        if self.format == "text":
            if columns:
                raise ValueError(f"`{argument}` must be left out for a plain text file, but got {', '.join(columns)}.")
            return []
        present = self._column_names()
        if not columns:
            unknown = self.format == "jsonl" and not present  # empty, or a first line that is reported when it is read
            columns = [TEXT_COLUMN] if TEXT_COLUMN in present or unknown else present[:1] if len(present) == 1 else []
        missing = [name for name in columns if name not in present]
        if not columns or len(columns) > 2 or (missing and (present or self.format != "jsonl")):
            got = ", ".join(columns) if len(columns) > 2 else missing[0] if missing else "nothing"
            raise ValueError(
                f"`{argument}` must name the column of the text, or those of both texts of a pair, among "
                f"{', '.join(present) or 'none'} of {self.path}, but got {got}."
            )
        return columns

    def _column_names(self) -> list[str]:
        if self.format == "parquet":
            try:
                return list(pq.read_schema(self.path).names)
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(
                    f"`{self.argument}` must be a parquet file, but {self.path} is none: {error}."
                ) from error
        if self.format == "csv":
            return next(csv.reader(line for _, line, _ in self._lines()), [])
        for _, line, _ in self._lines():
            if self.format == "tsv":
                return line.rstrip("\r\n").split("\t")
            if line.strip():
                try:
                    first = json.loads(line)
                except (ValueError, RecursionError):
                    return []  # the row itself is reported when it is read
                return list(first) if isinstance(first, dict) else []
        return []

    def _lines(self) -> Iterator[tuple[int, str, bool]]:
        """Number from 1, text, and whether it is UTF-8. A line feed alone ends a line: texts hold other separators."""
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8"), True
                except UnicodeDecodeError:
                    yield number, raw.decode("utf-8", errors="surrogateescape"), False

    def _text(self) -> Iterator[StreamedRow]:
        for number, line, valid in self._lines():
            yield self._row(number - 1, f"line {number}", [line.rstrip("\r\n")], valid)

    def _tsv(self) -> Iterator[StreamedRow]:
        index, header = 0, None
        for number, line, valid in self._lines():
            fields = line.rstrip("\r\n").split("\t")
            if header is None:
                header = fields
            elif line.rstrip("\r\n"):
                yield self._fields(index, number, header, fields, valid)
                index += 1

    def _csv(self) -> Iterator[StreamedRow]:
        broken: list[int] = []

        def lines() -> Iterator[str]:
            for number, line, valid in self._lines():
                if not valid:
                    broken.append(number)
                yield line

        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.reader(lines(), strict=True)
        header, index, first = next(reader, []), 0, 1
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield StreamedRow(index, f"line {first}", None, f"is no CSV: {error}")
                index += 1
                continue
            if fields is None:
                return
            if fields:  # an empty line is no row
                yield self._fields(index, first, header, fields, not broken)
                index += 1
            broken.clear()

    def _fields(self, index: int, line: int, header: list[str], fields: list[str], valid: bool) -> StreamedRow:
        place = f"line {line}"
        if len(fields) != len(header):
            return StreamedRow(index, place, None, f"has {len(fields)} fields, but the header has {len(header)}")
        return self._row(index, place, [fields[header.index(name)] for name in self.columns], valid)

    def _json_lines(self) -> Iterator[StreamedRow]:
        index = 0
        for number, line, valid in self._lines():
            if line.strip():
                yield self._json(index, f"line {number}", line, valid)
                index += 1

    def _json(self, index: int, place: str, line: str, valid: bool) -> StreamedRow:
        try:
            content = json.loads(line) if valid else None
        except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
            return StreamedRow(index, place, None, f"is no JSON: {error}")
        if valid and not isinstance(content, dict):
            return StreamedRow(index, place, None, f"must be a JSON object, but is {type(content).__name__}")
        missing = [name for name in self.columns if name not in content] if isinstance(content, dict) else []
        if missing:
            return StreamedRow(index, place, None, f"has no {missing[0]!r}")
        return self._row(index, place, [content[name] for name in self.columns] if content else [""], valid)

    def _parquet(self, start: int) -> Iterator[StreamedRow]:
        file = pq.ParquetFile(self.path)
        for name in self.columns:
            kind = file.schema_arrow.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
                raise ValueError(
                    f"`{self.argument}`: the column {name!r} of {self.path} must be of text, but it is {kind}."
                )
        index = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if index + count <= start:
                index += count
                continue
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=self.columns):
                for values in zip(*(batch[name].to_pylist() for name in self.columns), strict=True):
                    if index >= start:
                        yield self._row(index, f"row {index}", list(values), True)
                    index += 1

    def _row(self, index: int, place: str, values: list[Any], valid: bool) -> StreamedRow:
        if not valid:
            return StreamedRow(index, place, None, "is not UTF-8")
        for position, value in enumerate(values):
            if not isinstance(value, str):
                name = self.columns[position] if self.columns else "the line"
                shown = json.dumps(value, ensure_ascii=False)
                shown = shown if len(shown) < 60 else shown[:57] + "..."
                return StreamedRow(index, place, None, f"must have a text as {name!r}, but has {shown}")
            try:
                value.encode()
            except UnicodeEncodeError:
                return StreamedRow(index, place, None, "has half of a surrogate pair, which is no text")
        return StreamedRow(index, place, values[0] if len(values) == 1 else (values[0], values[1]))
