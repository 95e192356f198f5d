"""Files of questions that commands are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.rows import Rows


def read_file(path: Path, columns: Sequence[str], answers: str | None, no_answer: bool) -> Rows:
    """Questions with their contexts, answers and groups, as ``dial fit`` reads them.

    Args:
        path: any file of rows, or the official JSON of SQuAD.
        columns: ``--columns``: of question and context; empty for these names.
        answers: ``--label-column``; None: answers, answer or label.
        no_answer: whether questions may have no answer, as the tiers were trained or told.

    Raises:
        ValueError: other than two columns, or a file or row that cannot be read.
    """
    from datamodules.question_rows import Fields, Remedies, read_question_rows
    from datamodules.sources import QUESTION_COLUMNS

    names = list(columns) or list(QUESTION_COLUMNS)
    if len(names) != 2:
        raise ValueError(f"`--columns` must name the columns of question and context, but got {' '.join(names)}.")
    remedies = Remedies("`--label-column`", "take tiers that were fitted with `--data.no_answer true`")
    fields = Fields(names[0], names[1], answers)
    return read_question_rows(path, fields, "FILE", no_answer, remedies)
