"""The user's own pairs of source and target, such as sentences and their translations, from files of any format."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.checks import check_metrics
from datamodules.files import FilesDataModule
from datamodules.labels import ANY_TEXT, check_label_names, class_labels, is_missing, number_labels
from datamodules.rows import Rows, group_names
from datamodules.sources import Columns, read_columns
from datamodules.text_to_text import TextToText, check_texts, form_of


class TextToTextDataModule(TextToText, FilesDataModule):
    """Rows of files with a column of texts and a column, or several, of what is to be written for them.

    Args:
        source_column: name of the column of the texts that are read.
        target_column: name of the column of the texts that are written. In JSON lines and parquet a cell may hold a
            list of references; a list of names here takes one reference from each. The first is trained on, all count
            in metrics.
        group_column: name of the column that says which rows belong together (sentences of a document). They stay in
            one role, and are drawn, counted and promised as one in all statistics.
        prefix: put in front of every source, as T5 was trained: ``"translate English to German: "``.
        label_names: the words that targets can be, where answers are classes; an empty list where they are numbers.
            Default: free text.
        target: what is written, such as the code of a language: models that were trained to write another are refused.
            Default: nobody says.
        metrics: the primary one first; default bleu, of label words accuracy, of numbers pearson and spearman.
        kwargs: see :class:`FilesDataModule` and :class:`~datamodules.text_to_text.TextToText`.

    Raises:
        ValueError: if no file is given, or a file does not exist.
    """

    def __init__(
        self,
        source_column: str = "source",
        target_column: str | list[str] = "target",
        group_column: str | None = None,
        prefix: str = "",
        label_names: list[str] | None = None,
        target: str | None = None,
        metrics: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_column, self.group_column, self.prefix = source_column, group_column, prefix
        self._target = target
        self.target_columns = [target_column] if isinstance(target_column, str) else list(target_column)
        if not self.target_columns:
            raise ValueError("`target_column` must name a column, but got an empty list. Name the target's column.")
        self._label_names = [ANY_TEXT] if label_names is None else check_label_names(label_names)
        default = ["accuracy"] if self._label_names else ["pearson", "spearman"]
        default = ["bleu"] if label_names is None else default
        self.metrics = default if metrics is None else check_metrics(metrics, self._label_names)

    @property
    def label_names(self) -> list[str]:
        """The label words; ``*`` alone for free text, empty for numbers."""
        return list(self._label_names)

    @property
    def source_form(self) -> str | None:
        """The prefix and the text."""
        return form_of(self.prefix)

    @property
    def target(self) -> str | None:
        """As it was given."""
        return self._target

    def read(self, role: str) -> Rows:
        """Read the role's file.

        Raises:
            ValueError: the file lacks a column, or a source or target is no text or empty; names the row.
        """
        path = self.file_of(role)
        names = [self.source_column, *self.target_columns, *([self.group_column] if self.group_column else [])]
        columns = read_columns(path, names, f"{role}_file", [self.source_column])
        return rows_of_pairs(
            columns,
            self.source_column,
            self.target_columns,
            self.label_names,
            str(path),
            self.prefix,
            self.group_column,
        )


def rows_of_pairs(
    columns: Columns,
    source: str,
    targets: Sequence[str],
    label_names: Sequence[str],
    where: str,
    prefix: str = "",
    group: str | None = None,
) -> Rows:
    """Rows of a column of sources and one or several columns of targets.

    Args:
        columns: column name to its N values.
        source: name of the column that is read.
        targets: names of the columns that are written.
        label_names: words that targets can be; ``*`` alone for free text, empty for numbers.
        where: what errors call the source, usually its path.
        prefix: put in front of every source.
        group: name of the column that says which rows belong together.

    Raises:
        ValueError: a source or target is no text or empty, or a target is no label word; names the row.
    """
    texts = columns[source]
    check_texts(texts, source, where)
    references = [_references(values) for values in zip(*(columns[name] for name in targets), strict=True)]
    check_texts([row[0] if row else None for row in references], targets[0], where)
    for row in references:
        check_texts(row[1:], targets[-1], where)
    label = np.arange(len(texts))
    if list(label_names) != [ANY_TEXT]:
        first = [row[0] for row in references]
        label = (
            class_labels(first, label_names, targets[0], where)
            if label_names
            else number_labels(first, targets[0], where)
        )
        if label_names:  # as the words are spelt, whatever the file does
            references = [(label_names[index],) for index in label.tolist()]
    groups = None if group is None else group_names(columns[group], group, where)
    sources = [f"{prefix}{text}" for text in texts] if prefix else None
    return Rows(list(texts), None, label, np.arange(len(texts), dtype=np.int64), groups, references, sources)


def _references(values: Sequence[Any]) -> tuple[Any, ...]:
    """What the cells of a row's target columns hold, one after the other; empty cells behind the first are none."""
    flat = [text for value in values for text in (value if isinstance(value, list | tuple | np.ndarray) else [value])]
    return tuple(str(v) if isinstance(v, int | float) and not is_missing(v) else v for v in flat[:1]) + tuple(
        text for text in flat[1:] if not is_missing(text)
    )
