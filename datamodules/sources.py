"""Reading columns from files (parquet, CSV, TSV, JSON lines) and from the Hugging Face hub."""

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
LONGEST_FIELD = 2**31 - 1  # the csv module's own limit of 128 KiB is no limit of texts
Columns = dict[str, list[Any]]


def read_columns(path: Path, columns: Sequence[str], argument: str) -> Columns:
    """Read the named columns of a file; the format follows from its suffix.

    Args:
        path: a ``.parquet``, ``.csv`` (quoted), ``.tsv`` (never quoted, one row a line), ``.jsonl`` or ``.json`` file
            (one object a line).
        columns: names to read.
        argument: how the user spells the setting that gave the path.

    Raises:
        ValueError: if the file is missing, has no such format, is no UTF-8, or lacks a column.
    """
    readers = {".parquet": _parquet, ".csv": _csv, ".tsv": _tsv, ".jsonl": _json_lines, ".json": _json_lines}
    if path.suffix not in readers:
        raise ValueError(
            f"`{argument}` must be a file ending in {', '.join(SUFFIXES)}, but got {str(path)!r}. Convert the file."
        )
    if not path.is_file():
        raise ValueError(f"`{argument}` must be a file that exists, but got {str(path)!r}. Check the path.")
    try:
        return readers[path.suffix](path, list(columns), argument)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{argument}` must be UTF-8 text, but {path} is not ({error.reason} at byte {error.start}). Convert it."
        ) from error


def tsv_header(path: Path) -> list[str]:
    """Names of the columns of a TSV file."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        return file.readline().rstrip("\r\n").split("\t")


def _require(present: Sequence[str], wanted: Sequence[str], path: Path, argument: str) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ValueError(
            f"`{argument}` must have the column {missing[0]!r}, but {path} has "
            f"{', '.join(map(repr, present)) or 'none'}. Rename the column or name another."
        )


def _parquet(path: Path, columns: list[str], argument: str) -> Columns:
    try:
        _require(pq.read_schema(path).names, columns, path, argument)
        table = pq.read_table(path, columns=columns)
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{argument}` must be a parquet file, but {path} cannot be read: {error}.") from error
    return {name: table[name].to_pylist() for name in columns}


def _csv(path: Path, columns: list[str], argument: str) -> Columns:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        rows = []
        try:
            header = next(reader, [])
            _require(header, columns, path, argument)
            for row in reader:
                if len(row) == len(header):
                    rows.append(row)
                elif row:  # an empty line is no row
                    raise ValueError(
                        f"`{argument}` must have {len(header)} fields in every row, but {path} has {len(row)} in the "
                        f"row that ends at line {reader.line_num}. Quote texts that contain commas."
                    )
        except csv.Error as error:
            raise ValueError(
                f"`{argument}` must be a CSV file, but {path}, line {reader.line_num}: {error}."
            ) from error
    return {name: [row[header.index(name)] for row in rows] for name in columns}


def _tsv(path: Path, columns: list[str], argument: str) -> Columns:
    header, rows = tsv_rows(path, has_header=True)
    _require(header, columns, path, argument)
    return {name: [row[header.index(name)] for row in rows] for name in columns}


def tsv_rows(path: Path, has_header: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of an unquoted TSV file; rows with too few fields (QQP has three) are left out with a warning."""
    # Only "\n" ends a row: str.splitlines would also cut at the form feeds and line separators inside texts.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file if line.rstrip("\r\n")]
    if not rows:
        return [], []
    header = rows.pop(0) if has_header else [str(i) for i in range(len(rows[0]))]
    short = [i for i, row in enumerate(rows) if len(row) < len(header)]
    if short:
        warnings.warn(
            f"{path}: {len(short)} rows have fewer than {len(header)} fields and are left out, first row {short[0]}.",
            stacklevel=2,
        )
    return header, [row for row in rows if len(row) >= len(header)]


def _json_lines(path: Path, columns: list[str], argument: str) -> Columns:
    result: Columns = {name: [] for name in columns}
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _json_object(line, path, number, argument)
                if any(name not in row for name in columns):
                    _require(list(row), columns, Path(f"{path}, line {number},"), argument)
                for name in columns:
                    result[name].append(row[name])
    return result


def _json_object(line: str, path: Path, number: int, argument: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`{argument}` must have one JSON object a line, but {path}, line {number}: {error}."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"`{argument}` must have one JSON object a line, but {path}, line {number} has {type(row).__name__}."
        )
    return row


def read_hub(repository: str, configuration: str, split: str, columns: Sequence[str]) -> Columns:
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
    _require(data.column_names, columns, Path(repository), "source")
    return {name: list(data[name]) for name in columns}
