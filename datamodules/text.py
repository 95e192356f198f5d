"""The user's own texts, from CSV, TSV, JSON lines or parquet files."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from datamodules.base import SequenceDataModule
from datamodules.checks import check_metrics
from datamodules.rows import Rows, make_rows
from datamodules.sources import read_columns


class TextDataModule(SequenceDataModule):
    """Rows of files with a text column, perhaps a second one, and a label column.

    Validation and calibration rows are cut from ``train_file`` where no file is given for them; test rows only with
    ``test_fraction``. Where test rows alone are needed (``calibration: crossfit``), no other file is.

    Args:
        train_file: ``.csv``, ``.tsv`` (never quoted), ``.jsonl``, ``.json`` (one object a line) or ``.parquet``.
        validation_file: the same.
        calibration_file: the same.
        test_file: the same.
        text_column: name of the text's column.
        text_b_column: name of the second text's column, where a row is a pair.
        label_column: name of the label's column; labels are class names, or indices into ``label_names``, or numbers.
            None for rows without labels, which can only be predicted.
        label_names: class names in order; an empty list makes a regression. Default: those that occur in ``train_file``
            (or else ``test_file``), sorted.
        metrics: the primary one first; default accuracy, for regression pearson and spearman.
        task: what reports call the data; default the name of the first file.
        kwargs: see :class:`SequenceDataModule`.

    Raises:
        ValueError: if no file is given, or a file does not exist.
    """

    def __init__(
        self,
        train_file: str | None = None,
        validation_file: str | None = None,
        calibration_file: str | None = None,
        test_file: str | None = None,
        text_column: str = "text",
        text_b_column: str | None = None,
        label_column: str | None = "label",
        label_names: list[str] | None = None,
        metrics: list[str] | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        given = {"train": train_file, "validation": validation_file, "calibration": calibration_file, "test": test_file}
        self.files = {role: Path(file).expanduser() for role, file in given.items() if file is not None}
        if not self.files:
            raise ValueError("`train_file` or `test_file` must be given, but got neither. Name at least one file.")
        for role, path in self.files.items():
            if not path.is_file():
                raise ValueError(f"`{role}_file` must be a file that exists, but got {str(path)!r}. Check the path.")
        self.columns = (text_column, text_b_column, label_column)
        self.task = task or next(iter(self.files.values())).stem
        self._label_names = None if label_names is None else list(label_names)
        self._given_metrics = metrics
        if label_column is None and label_names is None:
            raise ValueError(
                "`label_names` must be given where `label_column` is none, but got none. Name the model's classes; an "
                "empty list makes a regression."
            )

    def setup(self, stage: str) -> None:
        """Refuse rows without labels where labels are needed."""
        if self.columns[2] is None and stage != "predict":
            raise ValueError(
                "`label_column` must name a column for anything but `dial predict`, but got none. Name the column."
            )
        super().setup(stage)

    @property
    def label_names(self) -> list[str]:
        """Class names in order; empty for regression."""
        if self._label_names is None:
            role = "train" if "train" in self.files else next(iter(self.files))
            label = self.columns[2]
            assert label is not None  # else names were given
            values = read_columns(self.files[role], [label], f"{role}_file")[label]
            self._label_names = infer_label_names(values, label, str(self.files[role]))
        return list(self._label_names)

    @property
    def metrics(self) -> list[str]:  # type: ignore[override]
        """Names of the metrics, the primary one first."""
        if self._given_metrics is not None:
            return check_metrics(self._given_metrics, self.label_names)
        return ["accuracy"] if self.label_names else ["pearson", "spearman"]

    def has(self, role: str) -> bool:
        """Whether a file was given for the role."""
        return role in self.files

    def read(self, role: str) -> Rows:
        """Read the role's file."""
        if role not in self.files:
            remedy = " or set `test_fraction`, which cuts them from the training rows" if role == "test" else ""
            if role == "train" and self.calibration == "split":
                remedy = ", or to test without training rows set `calibration: crossfit`"
            raise ValueError(f"`{role}_file` must be given for {role} rows, but got none. Name a file{remedy}.")
        path = self.files[role]
        columns = read_columns(path, [name for name in self.columns if name is not None], f"{role}_file")
        return make_rows(columns, self.columns, self.label_names, str(path))


def infer_label_names(values: list[Any], column: str, where: str) -> list[str]:
    """Class names that occur in a label column, sorted; indices name themselves.

    Raises:
        ValueError: where the labels are numbers that are no indices, names that differ in case or spacing only, or
            more than 1,000 different names.

    >>> infer_label_names(["pos", "neg", "pos"], "label", "a.csv"), infer_label_names(["0", "2"], "label", "a.csv")
    (['neg', 'pos'], ['0', '1', '2'])
    """
    distinct: set[Any] = {value if isinstance(value, Hashable) else repr(value) for value in values}
    try:
        numbers = [float(value) for value in distinct]
    except (TypeError, ValueError):
        numbers = []
    if numbers and all(number.is_integer() and 0 <= number < 1000 for number in numbers):
        return [str(index) for index in range(int(max(numbers)) + 1)]
    names = {str(value) for value in distinct}
    ambiguous = len({name.strip().casefold() for name in names}) < len(names)
    if numbers or len(distinct) > 1000 or None in distinct or ambiguous:
        shown = ", ".join(sorted(map(repr, distinct))[:3])
        raise ValueError(
            f"`label_names` cannot be told from column {column!r} of {where}, which has {len(distinct)} different "
            f"values such as {shown}. Give `label_names`; an empty list makes a regression."
        )
    return sorted(names)
