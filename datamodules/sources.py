"""Whole columns of files, and of the Hugging Face hub, in memory."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.row_files import RowFile
from datamodules.row_formats import FieldFile, open_rows

Columns = dict[str, list[Any]]


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
    missing = [name for name in columns if name not in data.column_names]
    if missing:
        raise ValueError(
            f"`source` must have the column {missing[0]!r}, but {repository} ({configuration}, {split}) has "
            f"{', '.join(map(repr, data.column_names))}. Give a folder with the files as `source`."
        )
    return {name: list(data[name]) for name in columns}
