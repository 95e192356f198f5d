"""SuperGLUE (Wang et al. 2019, arXiv:1905.00537) without ReCoRD, as classification for encoders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.benchmark import BenchmarkDataModule
from datamodules.row_formats import open_rows
from datamodules.rows import Rows, make_rows
from datamodules.sources import Columns, columns_of, read_columns
from datamodules.t5_forms import winograd_source

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """Columns, labels and metrics of a task.

    Attributes:
        texts: the hub's text columns.
        label_names: in the hub's order.
        metrics: the primary one first.
        official: name of the folder in the official download.
        unit: what an encoder reads of a row's columns, a text or a pair; rows are told apart by it.
        others: further columns.
        tests: role -> the hub's split.
    """

    texts: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    official: str
    unit: Callable[[Fields], tuple[str, ...]]
    others: tuple[str, ...] = ()
    tests: dict[str, str] = field(default_factory=lambda: {"test": "validation"})


def _columns(*names: str) -> Callable[[Fields], tuple[str, ...]]:
    return lambda row: tuple(row[name] for name in names)


def _pronoun(row: Fields) -> tuple[str, ...]:
    marked = winograd_source(row["text"], row["span2_index"], row["span2_text"]).removeprefix("wsc: ")
    return marked, row["span1_text"]


_TRUTH = ("False", "True")
TASKS = {
    "boolq": Task(("question", "passage"), _TRUTH, ("accuracy",), "BoolQ", _columns("question", "passage")),
    "cb": Task(
        ("premise", "hypothesis"),
        ("entailment", "contradiction", "neutral"),
        ("macro_f1", "accuracy"),
        "CB",
        _columns("premise", "hypothesis"),
    ),
    "copa": Task(
        ("premise", "choice1", "choice2", "question"),
        ("choice1", "choice2"),
        ("accuracy",),
        "COPA",
        lambda row: (f"{row['premise']} {row['question']}", f"{row['choice1']} {row['choice2']}"),
    ),
    "multirc": Task(
        ("paragraph", "question", "answer"),
        _TRUTH,
        ("f1", "group_accuracy"),
        "MultiRC",
        lambda row: (row["paragraph"], f"{row['question']} {row['answer']}"),
        ("idx",),
    ),
    "rte": Task(
        ("premise", "hypothesis"),
        ("entailment", "not_entailment"),
        ("accuracy",),
        "RTE",
        _columns("premise", "hypothesis"),
    ),
    "wic": Task(
        ("word", "sentence1", "sentence2"),
        _TRUTH,
        ("accuracy",),
        "WiC",
        lambda row: (f"{row['word']}: {row['sentence1']}", row["sentence2"]),
    ),
    "wsc": Task(("text", "span1_text", "span2_text"), _TRUTH, ("accuracy",), "WSC", _pronoun, ("span2_index",)),
}


class SuperGLUEDataModule(BenchmarkDataModule):
    """One task of SuperGLUE for encoders; its official validation split is the test role.

    What is read: BoolQ question and passage; CB and RTE premise and hypothesis; MultiRC paragraph, and question with
    answer; WiC the first sentence after the word, and the second; WSC the text with the pronoun between stars, and the
    noun phrase. COPA asks which of two choices fits, which is no class of a text: it exists as text only
    (:class:`SuperGLUEAsTextDataModule`). ReCoRD is left out.

    MultiRC has a row for each answer. Questions are its groups, and all that is asked about a paragraph is in one role:
    a model that was trained on the paragraph would answer what else is asked about it too well.

    Args:
        task: boolq, cb, multirc, rte, wic or wsc.
        source: ``hub``, or a folder: of the task, or with one folder per task (``boolq`` or the official ``BoolQ``).
            Files are parquet, JSON lines or CSV with the hub's columns, or the official JSON lines (``train.jsonl``,
            ``val.jsonl``).
        kwargs: see :class:`SequenceDataModule`.

    Raises:
        ValueError: for an unknown task or a folder that does not exist.
    """

    HUB, OFFICIAL_SPLIT, FORMATS = "aps/super_glue", "val", ".jsonl, .csv, official val.jsonl"
    TASKS: ClassVar = TASKS
    LEFT_OUT: ClassVar = {
        "record": "which is left out: it asks for one of a passage's entities, which is neither a class nor free text",
        "copa": "which asks for one of two texts and not for a class; take SuperGLUEAsTextDataModule",
    }

    def __init__(self, task: str, source: str = "hub", **kwargs: Any) -> None:
        if task in self.LEFT_OUT:
            allowed = ", ".join(name for name in self.TASKS if name not in self.LEFT_OUT)
            raise ValueError(f"`task` must be one of {allowed}, but got {task!r}, {self.LEFT_OUT[task]}.")
        super().__init__(task=task, source=source, **kwargs)

    def read(self, role: str) -> Rows:
        """Read an official split: ``train``, or the validation split that is the test role."""
        return self.rows_of(*self.fields(role))

    def fields(self, role: str) -> tuple[Columns, str]:
        """The hub's columns of a role, and what errors call their source."""
        return self.columns(role, [*self._task.texts, *self._task.others, "label"])

    def rows_of(self, columns: Columns, where: str) -> Rows:
        """Rows as encoders read them.

        Args:
            columns: of :meth:`fields`.
            where: what errors call the source.

        Raises:
            ValueError: a text that is none, or a label that is no class; names the row.
        """
        names = [*self._task.texts, *self._task.others]
        for name in self._task.texts:  # before any text is made of several
            make_rows(columns, (name, None, None), self._task.label_names, where)
        units = []
        for index, values in enumerate(zip(*(columns[name] for name in names), strict=True)):
            try:
                units.append(self._task.unit(dict(zip(names, values, strict=True))))
            except (TypeError, ValueError) as error:
                raise ValueError(f"`source` {where}, row {index}: {error}; correct the file.") from error
        made: Columns = {"text": [unit[0] for unit in units], "text_b": [unit[1] for unit in units]}
        made["label"] = columns["label"]
        grouped = self.task == "multirc"
        if grouped:
            made["group"] = [f"{idx['paragraph']}-{idx['question']}" for idx in columns["idx"]]
        group = "group" if grouped else None
        rows = make_rows(made, ("text", "text_b", "label"), self._task.label_names, where, group=group)
        if not grouped:
            return rows
        return replace(rows, block=np.array([str(idx["paragraph"]) for idx in columns["idx"]]))

    def _read_file(self, path: Path, names: list[str]) -> Columns:
        """Columns of a file, official ones of MultiRC and WSC (nested) included."""
        file = open_rows(path, "source")
        if self.task == "multirc" and "passage" in file.names:
            return official_multirc(columns_of(file, ["passage", "idx"]))
        if self.task == "wsc" and "target" in file.names:
            columns = columns_of(file, ["text", "target", "label"], ["text"])
            spans = {name: [target[name] for target in columns["target"]] for name in names if "span" in name}
            return {"text": columns["text"], "label": columns["label"]} | spans
        return read_columns(path, names, "source", self._task.texts)


def official_multirc(columns: Columns) -> Columns:
    """The hub's columns from the official file of MultiRC, a line of which is a paragraph with its questions.

    Args:
        columns: ``passage`` and ``idx`` of each line.
    """
    names = ("paragraph", "question", "answer", "idx", "label")
    result: Columns = {name: [] for name in names}
    for passage, paragraph in zip(columns["passage"], columns["idx"], strict=True):
        for question in passage["questions"]:
            for answer in question["answers"]:
                idx = {"paragraph": paragraph, "question": question["idx"], "answer": answer["idx"]}
                row = (passage["text"], question["question"], answer["text"], idx, answer["label"])
                for name, value in zip(names, row, strict=True):
                    result[name].append(value)
    return result
