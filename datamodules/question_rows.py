"""Questions about contexts as rows: what files say of answers, in the forms in which they say it, and what is wrong."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.labels import KINDS, is_missing
from datamodules.row_files import text_problem
from datamodules.row_formats import open_rows
from datamodules.rows import Rows, group_names
from datamodules.sources import QUESTION_COLUMNS, Columns, columns_of
from datamodules.squad_json import ANSWERS, ID, open_squad

NO_SPAN = (-1, -1)
ANSWER_COLUMNS = ("answers", "answer", "label")
"""Where answers are looked for, in this order, where nobody names their column."""
NOTHING = ("",)
"""What a question without an answer is compared with: an empty text, and that alone, is right."""
FIRST_CHARACTER = "answer_start"
"""What SQuAD calls the place of an answer, and errors too, where no column of it is named."""


@dataclass(frozen=True)
class Fields:
    """Names of the columns of a file of questions.

    Attributes:
        question: of the question.
        context: of the text that holds the answer.
        answers: of the answers: texts with their first characters, as SQuAD has them, a text, or a list of texts; None:
            the first of :data:`ANSWER_COLUMNS` that the file has.
        start: of the first character of the answer in the context; None: it is in the answers, or the first place where
            the context has the answer's text.
        id: of what rows are called in errors; None: their position.
        group: of what rows belong to; None: the context.
    """

    question: str = QUESTION_COLUMNS[0]
    context: str = QUESTION_COLUMNS[1]
    answers: str | None = None
    start: str | None = None
    id: str | None = None
    group: str | None = None

    @property
    def names(self) -> list[str]:
        """Columns to read."""
        every = (self.question, self.context, self.answers, self.start, self.id, self.group)
        return [name for name in every if name is not None]


SQUAD = Fields(answers=ANSWERS, id=ID)
"""The columns of SQuAD on the hub, to which the official JSON is brought."""


@dataclass(frozen=True)
class Remedies:
    """What errors advise, as the user of a command spells it.

    Attributes:
        answers: the argument that names the column of answers.
        no_answer: how questions may have no answer.
    """

    answers: str = "`answer_column`"
    no_answer: str = "set `no_answer: true`"


OF_A_FIT = Remedies()


def read_questions(path: Path, fields: Fields, argument: str, remedies: Remedies = OF_A_FIT) -> tuple[Columns, Fields]:
    """Columns of a file, and what they are called.

    Args:
        path: CSV, TSV, JSON lines, parquet, or the official JSON of SQuAD 1.1 or 2.0.
        fields: columns of the file; those of the official JSON are always SQuAD's.
        argument: how the user calls the path.
        remedies: what errors advise.

    Raises:
        ValueError: the file is missing or damaged, or lacks a column.
    """
    if (official := open_squad(path, argument)) is not None:
        return official.columns, SQUAD
    file = open_rows(path, argument)
    texts = [fields.question, fields.context]
    if fields.answers is None and file.names:  # else it is empty or its first line is broken, which reading it tells
        there = [name for name in ANSWER_COLUMNS if name in file.names]
        if not there:
            file.require(texts)
            raise ValueError(
                f"`{argument}` must have a column of answers ({', '.join(ANSWER_COLUMNS)}), but {path} has "
                f"{', '.join(map(repr, file.names))}; name it with {remedies.answers}."
            )
        fields = replace(fields, answers=there[0])
    fields = fields if fields.answers is not None else replace(fields, answers=ANSWER_COLUMNS[0])
    return columns_of(file, fields.names, texts), fields


def read_question_rows(
    path: Path, fields: Fields, argument: str, no_answer: bool, remedies: Remedies = OF_A_FIT
) -> Rows:
    """Rows of a file of questions, see :func:`read_questions` and :func:`question_rows`."""
    columns, found = read_questions(path, fields, argument, remedies)
    return question_rows(columns, found, str(path), no_answer, remedies)


def question_rows(columns: Columns, fields: Fields, where: str, no_answer: bool, remedies: Remedies = OF_A_FIT) -> Rows:
    """Rows of questions with checked answers; rows of one context are one group.

    Args:
        columns: by name, N values each.
        fields: what they are called.
        where: what errors call the source, usually its path.
        no_answer: whether questions may have no answer.
        remedies: what errors advise.

    Raises:
        ValueError: a question or context that is no text or empty, a question that occurs twice by its id, an answer
            that is not where it is said to be, or none where there must be one; names the row.
    """
    assert fields.answers is not None  # read_questions found it
    ids = columns[fields.id] if fields.id is not None else list(range(len(columns[fields.question])))
    names = [f"{where}, {fields.id} {name!r}" if fields.id else f"{where}, row {name}" for name in ids]
    _check_ids(ids, fields, where)
    questions, contexts = columns[fields.question], columns[fields.context]
    for what, texts in ((fields.question, questions), (fields.context, contexts)):
        for name, text in zip(names, texts, strict=True):
            if problem := text_problem(text, what) or ("" if text.strip() else f"has an empty {what}"):
                raise ValueError(f"`{what}` must be a text in every row, but {name} {problem}. Fill it in.")
    starts = columns[fields.start] if fields.start is not None else [None] * len(ids)
    targets, spans = [], []
    for name, context, cell, start in zip(names, contexts, columns[fields.answers], starts, strict=True):
        own = None if is_missing(start) else start
        first_column = FIRST_CHARACTER if own is None else str(fields.start)
        answers = _answers(cell, own, fields.answers, name, first_column)
        if not answers and not no_answer:
            raise ValueError(
                f"`{fields.answers}` must hold an answer in every row, but {name} has none, as questions of SQuAD 2.0 "
                f"may; {remedies.no_answer}, or leave the row out."
            )
        placed = [_placed(text, first, context, fields.answers, name, first_column) for text, first in answers]
        targets.append(tuple(dict.fromkeys(text for text, _ in answers)) or NOTHING)
        spans.append(placed[0] if placed else NO_SPAN)
    groups = _paragraphs(contexts) if fields.group is None else group_names(columns[fields.group], fields.group, where)
    position = np.arange(len(ids), dtype=np.int64)
    sources = [
        f"question: {question} context: {context}" for question, context in zip(questions, contexts, strict=True)
    ]
    where_found = np.array(spans, np.int64).reshape(-1, 2)
    return Rows(list(questions), list(contexts), position, position, groups, targets, sources, spans=where_found)


def _check_ids(ids: Sequence[Any], fields: Fields, where: str) -> None:
    """Refuses ids that are missing, no texts or numbers, or come twice."""
    known: set[Any] = set()
    for name in ids:
        if not is_missing(name) and not isinstance(name, KINDS):
            raise ValueError(
                f"`{fields.id}` must be a text or a number in every row, but {where} has {str(name)[:60]!r}. Correct "
                "it, or name another column."
            )
        if is_missing(name):
            raise ValueError(f"`{fields.id}` must be given in every row, but {where} has a row without. Fill it in.")
        if name in known:
            raise ValueError(
                f"`{fields.id}` must be another in every row, but {where} has {name!r} more than once. Remove the "
                "repeated row, or give it an id of its own."
            )
        known.add(name)


def _paragraphs(contexts: Sequence[str]) -> np.ndarray:
    """A name ``(N,)`` for each context, the same for equal ones."""
    known: dict[str, int] = {}
    return np.array([str(known.setdefault(context, len(known))) for context in contexts], dtype=str)


def _answers(cell: Any, start: Any, column: str, name: str, first_column: str) -> list[tuple[str, int | None]]:
    """Answers of a cell with their first characters, as far as it says these; none where there is no answer.

    Args:
        cell: of the column of answers.
        start: first character of the only answer, from a column of its own; None: it is in the cell, or nowhere.
        column: name of the column of answers.
        name: of the row.
        first_column: what first characters are called.
    """
    if isinstance(cell, str):
        cell = _parsed(cell)
    if isinstance(cell, Mapping):
        texts, starts = _listed(cell.get("text", cell)), _listed(cell.get("answer_start"))
    elif isinstance(cell, str):
        texts, starts = [cell] if cell.strip() else [], []
    else:
        items = _listed(cell)
        pairs = [
            (each.get("text"), each.get("answer_start")) if isinstance(each, Mapping) else (each, None)
            for each in items
        ]
        texts, starts = [text for text, _ in pairs], [first for _, first in pairs]
    if start is not None and texts:
        starts = [start]
    starts = [*starts, *[None] * (len(texts) - len(starts))]
    if len(starts) != len(texts) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"`{column}` must hold texts, with as many first characters as texts where these are given, but {name} has "
            f"{str(cell)[:60]!r}. Give SQuAD's {{text, answer_start}}, a text, or a list of texts."
        )
    return [(text, _character(first, name, first_column)) for text, first in zip(texts, starts, strict=True)]


def _parsed(cell: str) -> Any:
    """What a cell of CSV holds of SQuAD's columns or of lists of texts; other texts, such as ``[1]``, as they are."""
    if cell.lstrip()[:1] in ("{", "["):
        with suppress(ValueError):
            found = json.loads(cell)
            each = found if isinstance(found, list) else [found]
            kinds = (str, Mapping) if isinstance(found, list) else Mapping
            if all(isinstance(one, kinds) and (isinstance(one, str) or "text" in one) for one in each):
                return found
    return cell


def _character(first: Any, name: str, column: str) -> int | None:
    """A position in a context, of whatever type a file gives it; None where it gives none.

    Raises:
        ValueError: it is no whole number.
    """
    if first is None or is_missing(first):
        return None
    try:
        if (number := float(first)).is_integer():
            return int(number)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"`{column}` must be the position of a character in the context, from 0, but {name} has {first!r}. Correct "
        "it, or leave it out where the first place that has the answer is meant."
    )


def _listed(value: Any) -> list[Any]:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return []
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def _placed(text: str, start: int | None, context: str, column: str, name: str, first_column: str) -> tuple[int, int]:
    """First character of an answer in its context and the one behind it, without the spaces around it.

    Raises:
        ValueError: it is not there.
    """
    if start is None:
        start = context.find(text)
        if start < 0:
            raise ValueError(
                f"`{column}` must be in the context letter by letter, but {name} has {text[:60]!r}, which is not. "
                "Correct the answer, or leave the row out."
            )
    if start < 0 or context[start : start + len(text)] != text:
        there = context[max(start, 0) : max(start, 0) + len(text)]
        raise ValueError(
            f"`{column}` must be where it is said to be, but {name} has {text[:60]!r} at {start}, where its context of "
            f"{len(context)} characters has {there[:60]!r}. Correct `{first_column}`: it counts characters from 0."
        )
    start += len(text) - len(text.lstrip())  # tokens have no spaces, and could not hold those at an end
    return start, start + len(text.strip())
