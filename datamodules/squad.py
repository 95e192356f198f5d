"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), from the hub or a folder, and the user's own questions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import FilesDataModule
from datamodules.question_rows import SQUAD, Fields, question_rows, read_question_rows
from datamodules.questions import QuestionAnswering
from datamodules.roles import position
from datamodules.rows import Rows
from datamodules.sources import read_hub

SPLITS = {"train": "train", "test": "validation"}


class SQuADDataModule(QuestionAnswering):
    """Questions about paragraphs of Wikipedia; the official validation split is the test role.

    Validation and calibration rows are cut from the training rows by paragraph, whose number in the file decides.

    Args:
        source: ``hub``, or a folder with ``train`` and ``validation`` as parquet, JSON lines or CSV with the hub's
            columns, or the official ``train-v1.1.json`` and ``dev-v1.1.json`` (``v2.0`` with ``no_answer``).
        kwargs: see :class:`~datamodules.questions.QuestionAnswering`.

    Raises:
        ValueError: for a folder that does not exist.
    """

    def __init__(self, source: str = "hub", **kwargs: Any) -> None:
        if source != "hub" and not Path(source).expanduser().is_dir():
            raise ValueError(f"`source` must be 'hub' or a folder that exists, but got {source!r}. Check the path.")
        super().__init__(**kwargs)
        self.source = source
        self.task = "squad_v2" if self.no_answer else "squad"

    def has(self, role: str) -> bool:
        """Train and test rows come from the source; test rows not where ``test_fraction`` is given."""
        return role == "train" or (role == "test" and not self._fractions["test"])

    def read(self, role: str) -> Rows:
        """Read an official split: ``train``, or the validation split that is the test role."""
        if role not in SPLITS:
            raise ValueError(f"`{role}` must be one of {', '.join(SPLITS)} to be read.")
        if self.source == "hub":
            repository = f"rajpurkar/{self.task}"
            columns = read_hub(repository, None, SPLITS[role], SQUAD.names)
            return question_rows(columns, SQUAD, f"{repository} ({SPLITS[role]})", self.no_answer)
        return read_question_rows(self._find(role), SQUAD, "source", self.no_answer)

    def _find(self, role: str) -> Path:
        """The file of a role, in a format of this project or as published."""
        folder, split = Path(self.source).expanduser(), SPLITS[role]
        version = "v2.0" if self.no_answer else "v1.1"
        names = [f"{split}{suffix}" for suffix in (".parquet", ".jsonl", ".csv", "-00000-of-00001.parquet", ".json")]
        names.append(f"{split.replace('validation', 'dev')}-{version}.json")
        there = [folder / name for name in names if (folder / name).is_file()]
        if not there:
            remedy = "Add the file"
            if role == "train" and self.calibration == "split":
                remedy += ", or to test without training rows take `--data.calibration crossfit`"
            raise ValueError(
                f"`source` must have a file {names[0]} or {names[-1]}, but {folder} has neither. {remedy}."
            )
        return there[0]


class QuestionsDataModule(QuestionAnswering, FilesDataModule):
    """The user's own questions, from CSV, TSV, JSON lines, parquet, or JSON in SQuAD's form.

    Args:
        question_column: name of the column of questions.
        context_column: name of the column of the texts that hold the answers.
        answer_column: name of the column of answers: a text, a list of texts, or SQuAD's ``{text, answer_start}``. With
            ``no_answer`` an empty cell says that there is none. Default: answers, answer or label.
        start_column: name of the column of the answer's first character in the context, from 0. Default: it is in the
            answers, or the first place where the context has the answer's text.
        id_column: name of the column of what rows are called in errors; default: their position.
        group_column: name of the column that says which rows belong together; default: those of one context.
        kwargs: see :class:`FilesDataModule` and :class:`~datamodules.questions.QuestionAnswering`.

    Raises:
        ValueError: if no file is given, or a file does not exist.
    """

    def __init__(
        self,
        question_column: str = "question",
        context_column: str = "context",
        answer_column: str | None = None,
        start_column: str | None = None,
        id_column: str | None = None,
        group_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fields = Fields(question_column, context_column, answer_column, start_column, id_column, group_column)

    def read(self, role: str) -> Rows:
        """Read the role's file; paragraphs are cut by their text, which stays where others come and go."""
        rows = read_question_rows(self.file_of(role), self.fields, f"{role}_file", self.no_answer)
        if self.fields.group is not None:
            return rows
        names = {context: str(position((context,))) for _, context in rows.units()}
        return replace(rows, block=np.array([names[context] for _, context in rows.units()]))
