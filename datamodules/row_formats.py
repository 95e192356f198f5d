"""The formats of files of rows: CSV, TSV, JSON lines, plain text, all of them also compressed by gzip, and parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.row_files import GZIP, STANDARD_INPUT, FileRow, LineFile, RowFile, Stream, is_gzip

TEXT_COLUMN = "text"
LONGEST_FIELD = 2**31 - 1  # the csv module's own limit of 128 KiB is no limit of texts
BATCH = 1024  # rows of a parquet file that are decoded at a time


class PlainTextFile(LineFile):
    """A text a line; the column is called ``text``."""

    format = "text"

    def _names(self) -> list[str]:
        return [TEXT_COLUMN]

    def _read(self, columns: list[str], start: int) -> Iterator[FileRow]:
        for number, line, valid in self._lines():
            if number > start:
                values = [line.rstrip("\r\n") for _ in columns] if valid else None
                yield FileRow(number - 1, f"line {number}", values, "" if valid else "is not UTF-8")


class FieldFile(LineFile):
    """A header, and records with as many fields as it has.

    Args:
        path: see :class:`RowFile`.
        argument: see there.
        stream: see there.
        header: whether there is one; else the columns are called ``0``, ``1`` and so on.
        short_rows: whether records with too few fields are left out; else they are broken rows.

    Attributes:
        left_out: how many records the latest reading left out.
    """

    def __init__(
        self, path: Path, argument: str, stream: Stream | None = None, header: bool = True, short_rows: bool = False
    ) -> None:
        self.header, self.short_rows, self.left_out = header, short_rows, 0
        super().__init__(path, argument, stream)

    def _records(self) -> Iterator[tuple[int, int, list[str], str]]:
        """First and last line, fields and problem of each record, with the header; one without fields is no row."""
        raise NotImplementedError

    def _names(self) -> list[str]:
        line, _, fields, problem = next(self._records(), (1, 1, [], ""))
        if problem:
            raise ValueError(
                f"`{self.argument}` must have a header with the names of its columns, but line {line} of {self.path} "
                f"{problem}. Convert the file."
            )
        return fields if self.header else [str(i) for i in range(len(fields))]

    def _read(self, columns: list[str], start: int) -> Iterator[FileRow]:
        """Rows from `start` on, numbered; those that do not fit the header carry their problem."""
        places, width = [self.names.index(name) for name in columns], len(self.names)
        records, index, self.left_out = self._records(), -1, 0
        if self.header:
            next(records, None)
        for line, end, fields, problem in records:
            if self.short_rows and 0 < len(fields) < width:
                self.left_out += 1
            elif fields or problem:
                index += 1
                if index < start:
                    continue
                if not problem and len(fields) != width:
                    problem = f"has {len(fields)} fields, but the header has {width}"
                if problem and end > line:
                    problem += f" (lines {line} to {end})"
                values = None if problem else [fields[place] for place in places]
                yield FileRow(index, f"line {line}", values, problem, end - line + 1)


class CsvFile(FieldFile):
    """Fields between commas, quoted where they hold commas, quotes or ends of lines."""

    format = "csv"

    def _newline(self, head: bytes) -> str:
        return ""

    def _records(self) -> Iterator[tuple[int, int, list[str], str]]:
        """Records with their first and last line; broken ones with what is wrong instead of fields."""
        broken: list[int] = []

        def lines() -> Iterator[str]:
            for number, line, valid in self._lines():
                if not valid:
                    broken.append(number)
                yield line

        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.reader(lines(), strict=True)
        while True:
            first = reader.line_num + 1
            broken.clear()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield first, reader.line_num, [], f"is no CSV: {error}"
            else:
                yield first, reader.line_num, fields, "is not UTF-8" if broken else ""


class TsvFile(FieldFile):
    """Fields between tabs, never quoted."""

    format = "tsv"

    def _newline(self, head: bytes) -> str:
        first = head.partition(b"\n")[0].removesuffix(b"\r")
        return "" if self.header and b"\r" in first else super()._newline(head)

    def _records(self) -> Iterator[tuple[int, int, list[str], str]]:
        for number, line, valid in self._lines():
            content = line.rstrip("\r\n")
            yield number, number, content.split("\t") if content else [], "" if valid else "is not UTF-8"


class JsonLinesFile(LineFile):
    """A JSON object a line."""

    format = "jsonl"

    def _newline(self, head: bytes) -> str:
        return ""  # inside of an object the end of a line is spelt \\n

    def _open_ended(self) -> bool:
        return not self.names

    def _names(self) -> list[str]:
        """Keys of the first object, none where it is broken, which is reported when rows are read."""
        for _, line, valid in self._lines():
            if line.lstrip().startswith("["):
                raise ValueError(
                    f"`{self.argument}` must have one JSON object a line, but {self.path} begins with a JSON array. "
                    "Write each of its objects on a line of its own."
                )
            if line.strip():
                try:
                    first = DECODER.decode(line) if valid else None
                except (ValueError, RecursionError):
                    return []  # the row itself is reported when it is read
                return list(first) if isinstance(first, dict) else []
        return []

    def _read(self, columns: list[str], start: int) -> Iterator[FileRow]:
        index = -1
        for number, line, valid in self._lines():
            if line.strip():
                index += 1
                if index >= start:
                    values, problem = self._values(line, columns) if valid else (None, "is not UTF-8")
                    yield FileRow(index, f"line {number}", values, problem)

    def _values(self, line: str, columns: list[str]) -> tuple[list[Any] | None, str]:
        """Values of an object, or None and what is wrong with it."""
        try:
            content = DECODER.decode(line)
        except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
            return None, f"is no JSON: {error}"
        if not isinstance(content, dict):
            return None, f"must be a JSON object, but is {type(content).__name__}"
        for name in columns:
            if name not in content:
                return None, f"has no {name!r}"
            if isinstance(content, _Repeating) and name in content.repeated:
                return None, f"has {name!r} more than once"
        return [content[name] for name in columns], ""


class _Repeating(dict[str, Any]):
    """An object in which names occur more than once."""

    repeated: set[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        content = _Repeating(content)
        content.repeated = {name for name in names if names.count(name) > 1}
    return content


DECODER = json.JSONDecoder(object_pairs_hook=_object)


class ParquetFile(RowFile):
    """Columns of any type; texts are strings, also categorical ones."""

    format = "parquet"

    def _names(self) -> list[str]:
        try:
            self.schema = pq.read_schema(self.path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"`{self.argument}` must be a parquet file, but {self.path} is none: {_one_line(error)}."
            ) from error
        return list(self.schema.names)

    def require(self, texts: Sequence[str], others: Sequence[str] = ()) -> None:
        """Refuse text columns of another type, too; see :meth:`RowFile.require`."""
        super().require(texts, others)
        for name in texts:
            kind = self.schema.field(name).type
            if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
                raise ValueError(
                    f"`{self.argument}`: the column {name!r} of {self.path} must be of text, but it is {kind} from "
                    "row 0 on. Convert the column."
                )

    def _read(self, columns: list[str], start: int) -> Iterator[FileRow]:
        """Rows from `start` on, row groups before it passed over unread."""
        index = 0
        for batch in self._batches(columns, start):
            if isinstance(batch, int):  # rows that are passed over
                index += batch
                continue
            for values in zip(*(_values(batch[name]) for name in columns), strict=True):
                if index >= start:
                    yield FileRow(index, f"row {index}", list(values))
                index += 1

    def _batches(self, columns: list[str], start: int) -> Iterator[pa.RecordBatch | int]:
        """Batches of rows; of row groups that end before ``start`` the number of rows alone."""
        done = 0
        try:
            file = pq.ParquetFile(self.path)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                done += count
                if done <= start:
                    yield count
                else:
                    yield from file.iter_batches(BATCH, row_groups=[group], columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"`{self.argument}`: {self.path} is damaged and cannot be read: {_one_line(error)}."
            ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)


def _values(column: pa.Array) -> list[Any]:
    """Values of a column; a string that is not UTF-8 is given as bytes."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        values = [None if raw is None else _decoded(raw) for raw in column.cast(pa.large_binary()).to_pylist()]
    return values


def _decoded(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


FORMATS: dict[str, type[RowFile]] = {
    ".csv": CsvFile, ".tsv": TsvFile, ".jsonl": JsonLinesFile, ".json": JsonLinesFile, ".parquet": ParquetFile,
    ".txt": PlainTextFile,
}  # fmt: skip


def open_rows(path: Path, argument: str) -> RowFile:
    """A file of rows; its suffix, in capitals or not, tells the format.

    Args:
        path: the file.
        argument: how the user calls it.

    Raises:
        ValueError: no such file, an unknown format, or a header that cannot be read.
    """
    kind = FORMATS.get(suffix_of(path))
    if kind is None or (is_gzip(path) and not issubclass(kind, LineFile)):
        raise ValueError(
            f"`{argument}` must be a file ending in {', '.join(FORMATS)}, but got {str(path)!r}. {GZIP} may stand "
            "behind all of these but .parquet."
        )
    if not path.is_file():
        raise ValueError(f"`{argument}` must be a file that exists, but got {str(path)!r}; check the path.")
    return kind(path, argument)


def open_stream(stream: Stream, argument: str, suffix: str | None, columns: Sequence[str]) -> RowFile:
    """Rows that come through a pipe.

    Args:
        stream: their bytes.
        argument: how the user calls them.
        suffix: what tells the format of a file; None to tell it from the first line.
        columns: that are wanted: a first line that has them is a header.

    Raises:
        ValueError: a header that cannot be read.
    """
    with closing(io.TextIOWrapper(stream.open(), encoding="utf-8-sig", errors="replace", newline="")) as file:
        first = file.readline().strip("\r\n") if suffix is None else ""
    kind = FORMATS[suffix] if suffix is not None else _format_of(first, columns or [TEXT_COLUMN])
    return kind(STANDARD_INPUT, argument, stream)


def _format_of(line: str, columns: Sequence[str]) -> type[RowFile]:
    """The format that a first line is of: an object, a header that has the wanted columns, or a text."""
    if line.lstrip().startswith(("{", "[{")) or line.strip() == "[":  # an array is refused there
        return JsonLinesFile
    if set(columns) <= set(line.split("\t")) and ("\t" in line):
        return TsvFile
    csv.field_size_limit(LONGEST_FIELD)
    fields = next(csv.reader([line]), [])
    return CsvFile if set(columns) <= set(fields) else PlainTextFile


def plain_stem(path: Path) -> str:
    """A file's name without what tells its format.

    >>> plain_stem(Path("data/rows.csv.gz")), plain_stem(Path("rows.v2.jsonl"))
    ('rows', 'rows.v2')
    """
    return Path(path.stem).stem if is_gzip(path) else path.stem


def suffix_of(path: Path) -> str:
    """What tells a file's format, in small letters and without what says that it is compressed.

    >>> suffix_of(Path("rows.v2.CSV.gz"))
    '.csv'
    """
    return Path(path.stem if is_gzip(path) else path.name).suffix.lower()
