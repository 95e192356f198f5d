"""What is read of files of rows: columns in memory, those of the Hugging Face hub too, and texts as a stream."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.row_files import FileRow, RowFile, Stream
from datamodules.row_formats import TEXT_COLUMN, FieldFile, PlainTextFile, open_rows, open_stream
from datamodules.squad_json import ID, SquadFile, open_squad

Columns = dict[str, list[Any]]
QUESTION_COLUMNS = ("question", "context")


def read_columns(path: Path, columns: Sequence[str], argument: str, texts: Sequence[str] = ()) -> Columns:
    """Read the named columns of a file; the format follows from its suffix.

    Args:
        path: a file of rows (see :mod:`datamodules.row_formats`).
        columns: names to read.
        argument: how the user spells the setting that gave the path.
        texts: those of the columns that must hold texts.

    Raises:
        ValueError: if the file is missing, has no such format, lacks a column, or has a row that cannot be read or
            whose text is none; names file, row and column.
    """
    return columns_of(open_rows(path, argument), columns, texts)


def columns_of(file: RowFile, columns: Sequence[str], texts: Sequence[str] = ()) -> Columns:
    """Read the named columns of an open file; see :func:`read_columns`."""
    wanted = list(dict.fromkeys(texts))
    others = [name for name in dict.fromkeys(columns) if name not in wanted]
    file.require(wanted, others)
    result: Columns = {name: [] for name in (*wanted, *others)}
    for row in file.rows(wanted, others):
        if row.values is None:
            raise file.refusal(row)
        for values, value in zip(result.values(), row.values, strict=True):
            values.append(value)
    if isinstance(file, FieldFile) and file.left_out:
        warnings.warn(
            f"{file.path}: {file.left_out} rows have fewer than {len(file.names)} fields and are left out.",
            stacklevel=2,
        )
    return result


def read_hub(repository: str, configuration: str | None, split: str, columns: Sequence[str]) -> Columns:
    """Read columns of a split from the hub (or from its local cache).

    Raises:
        ValueError: naming ``source``, if the hub cannot be reached or has no such data.
    """
    from datasets import load_dataset  # slow to import, and needed for the hub only

    try:
        data = load_dataset(repository, configuration, split=split)
    except (
        Exception
    ) as error:  # the hub's clients raise a dozen unrelated classes where they find no network or no data
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"`source` is 'hub', but {repository} ({configuration}, {split}) could not be read from the hub "
            f"({type(error).__name__}: {reason}). Connect to the network, or give a folder with the files as `source`."
        ) from error
    missing = [name for name in columns if name not in data.column_names]
    if missing:
        raise ValueError(
            f"`source` must have the column {missing[0]!r}, but {repository} ({configuration}, {split}) has "
            f"{', '.join(map(repr, data.column_names))}. Give a folder with the files as `source`."
        )
    return {name: list(data[name]) for name in columns}


class TextFile:
    """The texts of a file of rows, read as a stream.

    Args:
        path: the file; its suffix tells the format (see :mod:`datamodules.row_formats`); or the official JSON of SQuAD.
        columns: of the text, or of both texts of a pair. Default: ``text``, or the only column there is, or
            ``question`` and ``context``.
        argument: how the user calls the path.
        columns_argument: how the user calls the columns.
        stream: what to read instead of a file.
        stream_format: suffix of its format; None to tell it from its first line.

    Attributes:
        can_be_read_again: whether looking ahead costs nobody to wait, as it does at a pipe.
        ids: of SQuAD's questions in their order; None where rows are told by their number alone.
        unit_problem: what is wrong with a text or pair that its readers cannot take, else an empty text; such rows
            have a problem then. Default: nothing is.

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
            place = Path(path).expanduser()
            self._file = open_squad(place, argument, answered=False) or open_rows(place, argument)
        else:
            self._file = open_stream(stream, argument, stream_format, columns or [])
        self.path, self.format, self.can_be_read_again = self._file.path, self._file.format, stream is None
        self.ids = [str(each) for each in self._file.columns[ID]] if isinstance(self._file, SquadFile) else None
        self.columns = self._choose(list(columns or []), columns_argument)
        self._texts = self.columns or [TEXT_COLUMN]
        self.unit_problem: Callable[[Any], str] = lambda unit: ""
        self._file.require(self._texts)

    def rows(self, start: int = 0, last: bool = False) -> Iterator[FileRow]:
        """Rows in their order; ``unit`` is the text or the pair, ``problem`` says why a row has none.

        Args:
            start: number of the first row to give.
            last: nobody reads them again, so that of a stream nothing is kept.

        Raises:
            ValueError: the file itself cannot be read.
        """
        self._file.last = last
        for row in self._file.rows(self._texts, start=start):
            problem = "" if row.unit is None else self.unit_problem(row.unit)
            yield row._replace(values=None, problem=problem) if problem else row

    def refusal(self, row: FileRow, remedy: str) -> ValueError:
        """The error about a row that has no text."""
        return self._file.refusal(row, remedy)

    def _choose(self, columns: list[str], argument: str) -> list[str]:
        """The columns of the text, or of both texts of a pair: those given, or those whose names say so."""
        if isinstance(self._file, PlainTextFile):
            if columns:
                raise ValueError(f"`{argument}` must be left out for a plain text file, but got {', '.join(columns)}.")
            return []
        present = self._file.names
        if not columns and self.format == "jsonl" and {*present} == {"version", "data"}:
            raise ValueError(
                f"`{self._file.argument}` must have a row on each line, but {self.path} looks like SQuAD's JSON, "
                f"which is nested; give it as a file ending in .json, or name the columns with `{argument}`."
            )
        unknown = self.format == "jsonl" and not present  # empty, or a first line that is reported when it is read
        if not columns:
            columns = [TEXT_COLUMN] if TEXT_COLUMN in present or unknown else present[:1] if len(present) == 1 else []
            columns = list(QUESTION_COLUMNS) if not columns and {*QUESTION_COLUMNS} <= {*present} else columns
        missing = [] if unknown else [name for name in columns if name not in present]
        if not present and not unknown:
            raise ValueError(f"`{self._file.argument}` must have columns, but {self.path} is empty. Give another file.")
        if not columns or len(columns) > 2 or missing:
            got = ", ".join(columns) if len(columns) > 2 else missing[0] if missing else "nothing"
            raise ValueError(
                f"`{argument}` must name the column of the text, or those of both texts of a pair, among "
                f"{', '.join(present)} of {self.path}, but got {got}."
            )
        return columns
