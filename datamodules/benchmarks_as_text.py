"""GLUE and SuperGLUE as text, in the published forms of T5: the answer is a label word, a number, or a noun phrase."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datamodules.glue import GLUEDataModule
from datamodules.labels import ANY_TEXT, NOT
from datamodules.row_tokens import NO_FORM
from datamodules.rows import Rows
from datamodules.superglue import SuperGLUEDataModule
from datamodules.t5_forms import benchmark_source, similarity_target, winograd_source, winograd_target
from datamodules.text_to_text import TRAINED, TextToText


class GLUEAsTextDataModule(TextToText, GLUEDataModule):
    """One GLUE task as text: ``rte sentence1: … sentence2: …`` to ``entailment``, STS-B to numbers such as ``3.8``.

    Rows are in the same roles as those of :class:`GLUEDataModule`, so an encoder that was trained there can be the
    Swift of a model that is trained here.

    Args:
        task: see :class:`GLUEDataModule`.
        source: see there.
        kwargs: see there and :class:`~datamodules.text_to_text.TextToText`.
    """

    def __init__(self, task: str, source: str = "hub", **kwargs: Any) -> None:
        super().__init__(task=task, source=source, **kwargs)

    @property
    def label_names(self) -> list[str]:
        """The label words, which are the hub's names; empty for STS-B."""
        return list(self._task.label_names)

    @property
    def source_form(self) -> str:
        """T5's form of a text or pair."""
        return form_of_columns(self.task, self._task.columns)

    def read(self, role: str) -> Rows:
        """Read an official split and put it into words."""
        rows = GLUEDataModule.read(self, role)
        units = (dict(zip(self._task.columns, unit, strict=True)) for unit in rows.units())
        words = self._task.label_names
        targets = [(words[label] if words else similarity_target(float(label)),) for label in rows.label]
        return replace(rows, sources=[benchmark_source(self.task, unit) for unit in units], targets=targets)


class SuperGLUEAsTextDataModule(TextToText, SuperGLUEDataModule):
    """One task of SuperGLUE as text: ``boolq passage: … question: …`` to ``True``; WSC to a noun phrase.

    In WSC the pronoun stands between stars and the answer is free text. Rows whose noun phrase is the wrong one cannot
    be learnt from and are left out of the roles ``train`` and ``validation``; elsewhere such a row is right if the noun
    phrase is not named. Rows of the other tasks are in the same roles as those of :class:`SuperGLUEDataModule`.

    Args:
        task: boolq, cb, copa, multirc, rte, wic or wsc.
        source: see :class:`SuperGLUEDataModule`.
        kwargs: see there and :class:`~datamodules.text_to_text.TextToText`.
    """

    LEFT_OUT = {"record": SuperGLUEDataModule.LEFT_OUT["record"]}  # noqa: RUF012

    def __init__(self, task: str, source: str = "hub", **kwargs: Any) -> None:
        super().__init__(task=task, source=source, **kwargs)
        if task == "wsc":
            self.metrics = ["referent_accuracy"]

    @property
    def label_names(self) -> list[str]:
        """The label words; ``*`` for WSC, which is answered by any text."""
        return [ANY_TEXT] if self.task == "wsc" else list(self._task.label_names)

    @property
    def source_form(self) -> str:
        """T5's form of a text or pair; none can be made where a row is more than that."""
        pairs = {"boolq": ("question", "passage"), "cb": ("premise", "hypothesis"), "rte": ("premise", "hypothesis")}
        return form_of_columns(self.task, pairs[self.task]) if self.task in pairs else NO_FORM

    def read(self, role: str) -> Rows:
        """Read an official split and put it into words."""
        columns, where = self.fields(role)
        rows = self.rows_of(columns, where)
        if self.task == "wsc":
            places = zip(columns["text"], columns["span2_index"], columns["span2_text"], strict=True)
            sources = [winograd_source(*place) for place in places]
            phrases = zip(columns["span1_text"], rows.label == 1, strict=True)
            return replace(rows, sources=sources, targets=[(winograd_target(*each),) for each in phrases])
        fields = zip(*(columns[name] for name in self._task.texts), strict=True)
        sources = [benchmark_source(self.task, dict(zip(self._task.texts, row, strict=True))) for row in fields]
        return replace(rows, sources=sources, targets=[(self._task.label_names[label],) for label in rows.label])

    def _keep(self, role: str, rows: Rows) -> None:
        if role in TRAINED and self.task == "wsc":
            right = [not references[0].startswith(NOT) for references in rows.targets or ()]
            rows = rows.take(np.flatnonzero(right))
        super()._keep(role, rows)


def form_of_columns(task: str, columns: Sequence[str]) -> str:
    """T5's form of a row with one or two columns of texts.

    >>> form_of_columns("qnli", ("question", "sentence"))
    'qnli question: {0} sentence: {1}'
    """
    return benchmark_source(task, {name: f"{{{index}}}" for index, name in enumerate(columns)})
