"""The user's own texts, from CSV, TSV, JSON lines, parquet or plain text files."""

from typing import Any

import numpy as np

from datamodules.checks import check_metrics
from datamodules.files import FilesDataModule
from datamodules.labels import Hidden, check_label_names, infer_label_names
from datamodules.rows import Rows, make_rows
from datamodules.sources import read_columns

AGREEMENT = "agreement"
REMEDY = "Correct the file or `label_names`, or list the value in `hidden_labels` if it means that there is no label."


class TextDataModule(FilesDataModule):
    """Rows of files with a text column, perhaps a second one, and a label column.

    Args:
        text_column: name of the text's column.
        text_b_column: name of the second text's column, where a row is a pair.
        label_column: name of the label's column; labels are class names, or indices into ``label_names``, or numbers.
            None for rows without labels: the answers of a teacher (``fit``) or of the last tier (``test``) stand in for
            them then, and quality is the *agreement* with these.
        group_column: name of the column that says which rows belong together (sentences of a document, answers to a
            question). They stay in one role, and are drawn, counted and promised as one in all statistics.
        label_names: class names in order; an empty list makes a regression. Default: those that occur in ``train_file``
            (or else ``test_file``), sorted; whole numbers by their value, each a class that is called so.
        hidden_labels: values of the label column that mean "no label", such as -1; an empty text stands for empty cells
            and null. Such rows are left out and counted, but for ``dial predict``, which needs no labels.
        metrics: the primary one first; default accuracy, for regression pearson and spearman.
        kwargs: see :class:`FilesDataModule`.

    Raises:
        ValueError: if no file is given, or a file does not exist; no labels and no names of classes.
    """

    def __init__(
        self,
        text_column: str = "text",
        text_b_column: str | None = None,
        label_column: str | None = "label",
        group_column: str | None = None,
        label_names: list[str | int | float] | None = None,
        hidden_labels: list[str | int | float | None] | None = None,
        metrics: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.columns, self.group_column = (text_column, text_b_column, label_column), group_column
        self._label_names = None if label_names is None else check_label_names(label_names)
        self._given_metrics = metrics
        self._hidden = Hidden(hidden_labels or ())
        self.hidden: dict[str, int] = {}
        if label_column is None and label_names is None:
            raise ValueError(
                "`label_names` must be given where `label_column` is none, but got none. Name the model's classes; an "
                "empty list makes a regression."
            )

    @property
    def labelled(self) -> bool:
        """Whether a column of labels was named."""
        return self.columns[2] is not None

    def setup(self, stage: str) -> None:
        """Refuse rows without labels where nothing can stand in for them."""
        if not self.labelled and stage != "predict" and (stage == "validate" or not self.label_names):
            what = "a regression, whose answers never agree exactly" if not self.label_names else "`dial validate`"
            raise ValueError(f"`label_column` must name a column for {what}, but got none. Name the column.")
        super().setup(stage)

    @property
    def label_names(self) -> list[str]:
        """Class names in order; empty for regression."""
        if self._label_names is None:
            role = "train" if "train" in self.files else next(iter(self.files))
            label = self.columns[2]
            assert label is not None  # else names were given
            values = read_columns(self.files[role], [label], f"{role}_file")[label]
            self._label_names = infer_label_names(values, label, str(self.files[role]), self._hidden)
        return list(self._label_names)

    @property
    def metrics(self) -> list[str]:  # type: ignore[override]
        """Names of the metrics, the primary one first."""
        if not self.labelled and self.label_names:
            if self._given_metrics not in (None, [AGREEMENT]):
                raise ValueError(
                    f"`metrics` must be left out where `label_column` is none, as only {AGREEMENT} can be measured, "
                    f"but got {', '.join(self._given_metrics or [])}."
                )
            return [AGREEMENT]
        if self._given_metrics is not None:
            return check_metrics(self._given_metrics, self.label_names)
        return ["accuracy"] if self.label_names else ["pearson", "spearman"]

    def read(self, role: str) -> Rows:
        """Read the role's file."""
        path, texts = self.file_of(role), [name for name in self.columns[:2] if name is not None]
        wanted = [name for name in (*self.columns, self.group_column) if name is not None]
        columns = read_columns(path, wanted, f"{role}_file", texts)
        rows = make_rows(columns, self.columns, self.label_names, str(path), self._hidden, REMEDY, self.group_column)
        return rows if self.columns[2] is None else self._labelled(rows, role)

    def _labelled(self, rows: Rows, role: str) -> Rows:
        """The rows that have labels; all of them where none is needed."""
        given = rows.label >= 0 if self.label_names else ~np.isnan(rows.label)
        state = getattr(self.trainer, "state", None)
        if given.all() or (state is not None and state.fn is not None and state.fn.value == "predict"):
            return rows
        self.hidden[role] = int((~given).sum())
        self.tell(
            f"{role}: {self.hidden[role]} of {len(rows)} rows of {self.files[role]} have hidden labels and are left out"
        )
        return rows.take(np.flatnonzero(given))
