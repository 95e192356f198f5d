"""The nine tasks of GLUE (Wang et al. 2019, arXiv:1804.07461)."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datamodules.benchmark import BenchmarkDataModule
from datamodules.row_formats import TsvFile
from datamodules.rows import Rows, make_rows
from datamodules.sources import Columns, columns_of, read_columns


@dataclass(frozen=True)
class Task:
    """Columns, labels and metrics of a task.

    Attributes:
        columns: the hub's text columns.
        label_names: in the hub's order; empty for regression.
        metrics: the primary one first.
        official: name of the folder in the official download.
        tsv: hub column -> official TSV column, where they differ.
        tests: role -> the hub's split.
    """

    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    official: str
    tsv: dict[str, str] = field(default_factory=dict)
    tests: dict[str, str] = field(default_factory=lambda: {"test": "validation"})


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    "cola": Task(("sentence",), ("unacceptable", "acceptable"), ("mcc",), "CoLA"),
    "sst2": Task(("sentence",), ("negative", "positive"), ("accuracy",), "SST-2"),
    "mrpc": Task(
        _PAIR,
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),
        "MRPC",
        {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
    ),
    "qqp": Task(
        ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy"), "QQP", {"label": "is_duplicate"}
    ),
    "stsb": Task(_PAIR, (), ("pearson", "spearman"), "STS-B", {"label": "score"}),
    "mnli": Task(
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        "MNLI",
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        {"test_matched": "validation_matched", "test_mismatched": "validation_mismatched"},
    ),
    "qnli": Task(("question", "sentence"), _ENTAILMENT, ("accuracy",), "QNLI"),
    "rte": Task(_PAIR, _ENTAILMENT, ("accuracy",), "RTE"),
    "wnli": Task(_PAIR, ("not_entailment", "entailment"), ("accuracy",), "WNLI"),
}


class GLUEDataModule(BenchmarkDataModule):
    """One GLUE task. Its official test labels are hidden, so the official validation split is the test role.

    Labels are integers in the hub's order, whatever the source. MNLI has the test roles ``test_matched`` and
    ``test_mismatched``; a folder without the second is used with a warning.

    Args:
        task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte or wnli.
        source: ``hub``, or a folder: of the task, or with one folder per task (``sst2`` or the official ``SST-2``).
            Files are parquet, JSON lines or CSV with the hub's columns (``train.parquet``, ``validation.parquet``,
            ``validation_matched.parquet``), or the official TSV (``train.tsv``, ``dev.tsv``).
        kwargs: see :class:`SequenceDataModule`.

    Raises:
        ValueError: for an unknown task or a folder that does not exist.
    """

    HUB, OFFICIAL_SPLIT, FORMATS = "nyu-mll/glue", "dev", ".jsonl, .csv, official .tsv"
    TASKS: ClassVar = TASKS

    def __init__(self, task: str, source: str = "hub", **kwargs: Any) -> None:
        super().__init__(task=task, source=source, **kwargs)
        self._tests: list[str] | None = None

    def test_roles(self) -> list[str]:
        """``test``, for MNLI ``test_matched`` and ``test_mismatched``."""
        if self._tests is None:
            self._tests = super().test_roles()
            if (
                "test_mismatched" in self._tests
                and self.source != "hub"
                and self._find("validation_mismatched") is None
            ):
                warnings.warn(
                    f"{self.source} has no validation_mismatched file: test_mismatched is skipped.", stacklevel=2
                )
                self._tests = ["test_matched"]
        return self._tests

    def read(self, role: str) -> Rows:
        """Read an official split: ``train``, or the validation split that is the test role."""
        names = [*self._task.columns, "label"]
        columns, where = self.columns(role, names)
        text, text_b = names[0], (names[1] if len(names) == 3 else None)
        return make_rows(columns, (text, text_b, "label"), self._task.label_names, where)

    def _read_file(self, path: Path, names: list[str]) -> Columns:
        """Columns of a file, official ones (which differ from task to task) included."""
        texts = list(self._task.columns)
        if path.suffix != ".tsv":
            return read_columns(path, names, "source", texts)
        file = TsvFile(path, "source", short_rows=True)  # the official QQP has three such rows
        if self.task == "cola" and "sentence" not in file.names:  # official: source, label, mark, sentence; no header
            columns = columns_of(TsvFile(path, "source", header=False, short_rows=True), ["1", "3"], ["3"])
            return {"label": columns["1"], "sentence": columns["3"]}
        inside = {name: name if name in file.names else self._task.tsv.get(name, name) for name in names}
        columns = columns_of(file, list(inside.values()), [inside[name] for name in texts])
        return {name: columns[inside[name]] for name in names}
