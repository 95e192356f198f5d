"""The official JSON of SQuAD 1.1 and 2.0, questions in paragraphs in articles, as a file of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.row_files import FileRow, RowFile, open_bytes, whole_gzip
from datamodules.row_formats import suffix_of

ID, ANSWERS = "id", "answers"
COLUMNS = (ID, "question", "context", ANSWERS)
"""What the hub calls them."""


class SquadFile(RowFile):
    """Questions in the order of the file, with the columns of the hub.

    Args:
        path: of the file.
        argument: how the user calls it.
        articles: what it holds as ``data``.
        answered: whether questions must have answers; else they may lack ``answers``, as where these are hidden.

    Attributes:
        columns: N values of each of :data:`COLUMNS`.

    Raises:
        ValueError: something is missing in an article; names ``argument``.
    """

    format = "squad"

    def __init__(self, path: Path, argument: str, articles: list[Any], answered: bool = True) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        try:
            for article in articles:
                for paragraph in article["paragraphs"]:
                    for asked in paragraph["qas"]:
                        values = asked[ID], asked["question"], paragraph["context"], _answers(asked, answered)
                        for name, value in zip(COLUMNS, values, strict=True):
                            self.columns[name].append(value)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"`{argument}` must be SQuAD's JSON (data, paragraphs, qas, answers), but {path} is not: "
                f"{type(error).__name__} {error}; mend the file."
            ) from error
        super().__init__(path, argument)

    def _names(self) -> list[str]:
        return list(self.columns)

    def _read(self, columns: list[str], start: int) -> Iterator[FileRow]:
        for number, name in enumerate(self.columns[ID][start:], start):
            yield FileRow(number, f"{ID} {name!r}", [self.columns[column][number] for column in columns])


def open_squad(path: Path, argument: str, answered: bool = True) -> SquadFile | None:
    """The questions of an official file; None where it is none, such as JSON lines called .json.

    Args:
        path: a file, of any kind.
        argument: how the user calls it.
        answered: see :class:`SquadFile`.

    Raises:
        ValueError: it is damaged, or neither SQuAD's JSON nor JSON lines.
    """
    if suffix_of(path) != ".json" or not path.is_file():
        return None
    with whole_gzip(path, argument), open_bytes(path) as file:
        first = next((line for line in file if line.strip()), b"")
        document = _parsed(first)
        if not first or (document is not None and not _is_official(document)):
            return None  # JSON lines, of which none but the first is read here
        second, rest = next((line for line in file if line.strip()), b""), file.read()
    if isinstance(_parsed(second), dict):
        return None  # JSON lines whose first is broken, as their reader tells
    try:
        if document is None or second:
            document = json.loads((first + second + rest).decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None  # which the reader of lines tells with the line
    except ValueError as error:
        raise ValueError(
            f"`{argument}` must be SQuAD's JSON, or have one JSON object a line, but {path} is neither: {error}; mend "
            "the file."
        ) from error
    return SquadFile(path, argument, document["data"], answered) if _is_official(document) else None


def _answers(asked: Any, required: bool) -> Any:
    """Answers to a question: none where it is said to have none, whatever seems plausible."""
    if asked.get("is_impossible"):
        return []
    return asked[ANSWERS] if required else asked.get(ANSWERS)


def _is_official(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("data"), list)


def _parsed(line: bytes) -> Any:
    """A line that is JSON by itself, as JSON lines are; None for others."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
