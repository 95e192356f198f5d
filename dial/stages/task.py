"""What a task is: predictions, labels, metrics, losses and scores of classes, numbers or texts.

Nothing else decides it. The data says which task it is by its label names: names make classes, none make numbers, and
``*`` alone free text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from datamodules.labels import ANY_TEXT, is_free_text, number_of
from dial.stages.metrics.metrics import check_metric
from dial.stages.scores import MODEL_SCORES, SCORES

UNREAD = -1
"""The class of a text that names none: it is wrong, and counted."""


class Task(ABC):
    """What the outputs of a model mean.

    Args:
        label_names: of the classes in the order of the outputs; empty where labels are numbers.

    Attributes:
        name: what the task is called.
        label_type: of labels and predictions.
        loss: against labels, a name in :data:`dial.losses.LOSSES`.
        distillations: losses against a teacher's outputs, the default first.
        metrics: default, the primary first.
        scores: those that follow from a row's outputs, or from nothing, and can route; the oracle knows the labels and
            exists in the analysis only.
        exact: whether answers are right or wrong, and two answers equal or not; else they are more or less so.
        problem_type: what transformers calls it.
        columns: outputs ``C`` of a row.
        classes: how many there are; None where labels are numbers.
        in_words, labels_in_words, head_in_words, answer_in_words: the task, its labels, its outputs and an answer as
            errors name them.
        written: whether answers are texts and nothing else, which metrics compare with references.
    """

    name: ClassVar[str]
    label_type: ClassVar[type[np.int64] | type[np.float64]]
    loss: ClassVar[str]
    distillations: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    scores: ClassVar[tuple[str, ...]]
    exact: ClassVar[bool]
    problem_type: ClassVar[str]
    columns: int
    classes: int | None
    in_words: str
    labels_in_words: str
    head_in_words: str
    answer_in_words: str
    written: ClassVar[bool] = False

    def __init__(self, label_names: Iterable[str] = ()) -> None:
        self.label_names = tuple(label_names)

    @abstractmethod
    def read(self, texts: Any) -> np.ndarray:
        """Answers that a decoder wrote ``(...)`` as predictions ``(...)``.

        A decoder answers with a class's name, with a number, or with any text. What is no class is :data:`UNREAD`, what
        is no number is NaN.
        """

    @abstractmethod
    def unread(self, texts: Any) -> np.ndarray:
        """Whether texts ``(...)`` mean no answer at all, bool ``(...)``."""

    @abstractmethod
    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Answers ``(...)`` of outputs ``(..., C)``."""

    @abstractmethod
    def probability(self, outputs: np.ndarray) -> np.ndarray:
        """Of the answer, ``(...)``, from outputs ``(..., C)`` at their temperature; NaN where there is none."""

    @abstractmethod
    def closeness(self, outputs: Any, labels: Any) -> Any:
        """How near answers come to their labels, between 0 and 1, for tensors ``(..., C)`` and ``(...)``."""

    @abstractmethod
    def gains(self, predictions: np.ndarray, label: np.ndarray) -> np.ndarray:
        """How good answers ``(N, S)`` to labels ``(N,)`` are; only differences within a row matter."""

    @abstractmethod
    def answer(self, prediction: float) -> tuple[int | float | None, str | None]:
        """One answer as a plain value, None for a number that was not read, and what it is called."""

    @abstractmethod
    def record(self, outputs: np.ndarray) -> dict[str, Any]:
        """What a file of predictions holds of one row's outputs ``(C,)``."""

    def labels(self, values: np.ndarray) -> np.ndarray:
        """Labels ``(N,)``, or predictions of any shape, in this task's numbers."""
        return np.asarray(values).astype(self.label_type, copy=False)

    def head_settings(self) -> dict[str, Any]:
        """What a configuration of transformers says of the head, without its ``problem_type``."""
        settings: dict[str, Any] = {"num_labels": self.columns}
        if self.label_names:
            settings["id2label"] = dict(enumerate(self.label_names))
            settings["label2id"] = {name: i for i, name in enumerate(self.label_names)}
        return settings

    def check_metric(self, name: str, argument: str = "metrics") -> None:
        """Refuse a metric that does not exist, or not for this task.

        Raises:
            ValueError: naming the argument, the metrics that are allowed, and the one that came.
        """
        check_metric(name, self.name, self.classes or 0, self.in_words, argument)

    def check_score(self, name: str, argument: str, given: Sequence[str] = ()) -> None:
        """Refuse a score that does not exist for this task.

        Args:
            name: the score.
            argument: as the user spells it, for the message.
            given: scores that the model gives itself.

        Raises:
            ValueError: naming the argument, the scores that are allowed and the one that came.
        """
        if name in (*self.scores, *given):
            return
        allowed = ", ".join(dict.fromkeys([*self.scores, *given]))
        if name in MODEL_SCORES:
            raise ValueError(
                f"`{argument}` for this model must be one of: {allowed}; but got {name!r}, {MODEL_SCORES[name]}."
            )
        reason = " (the oracle is always part of the analysis, and routes nothing)" if name == "oracle" else ""
        raise ValueError(
            f"`{argument}` for {self.name} must be one of: {allowed}; but got {name!r}{reason}. Choose one of these."
        )


class Classification(Task):
    """One of several classes.

    Example:
        >>> Classification(["no", "yes"]).predict(np.array([[0.1, 0.7], [2.0, 1.0]]))
        array([1, 0])
    """

    name, label_type, exact = "classification", np.int64, True
    loss, distillations, metrics = "cross_entropy", ("soft_cross_entropy", "logits_mse"), ("accuracy",)
    scores = (*SCORES, "random")
    problem_type = "single_label_classification"
    answer_in_words = "one of the data's labels"

    def __init__(self, label_names: Iterable[str] = ()) -> None:
        super().__init__(label_names)
        self.columns = self.classes = len(self.label_names)
        self.in_words = f"classification of {self.classes} classes"
        self.labels_in_words = f"the labels {', '.join(self.label_names)}"
        self.head_in_words = f"{self.classes} labels ({', '.join(self.label_names)})"

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The largest output."""
        return np.asarray(outputs.argmax(axis=-1))

    def probability(self, outputs: np.ndarray) -> np.ndarray:
        """Softmax of the largest output."""
        return np.asarray(1 / np.exp(outputs - outputs.max(axis=-1, keepdims=True)).sum(axis=-1))

    def closeness(self, outputs: Any, labels: Any) -> Any:
        """1 where an answer is right and 0 where it is wrong."""
        return (outputs.argmax(-1) == labels).float()

    def gains(self, predictions: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Right, or not."""
        return (predictions == label[:, None]).astype(np.float64)

    def read(self, texts: Any) -> np.ndarray:
        """The class that a text names letter by letter, whatever the spaces; else :data:`UNREAD`, which is wrong.

        Example:
            >>> Classification(["not equal", "equal"]).read(["equal ", "not  equal", "Equal", "equals"])
            array([ 1,  0, -1, -1])
        """
        classes = {" ".join(name.split()): index for index, name in enumerate(self.label_names)}
        return _each(texts, lambda text: classes.get(" ".join(text.split()), UNREAD), np.int64)

    def unread(self, texts: Any) -> np.ndarray:
        """What names no class."""
        return np.asarray(self.read(texts) == UNREAD)

    def answer(self, prediction: float) -> tuple[int | float, str | None]:
        """Position and name of the class; of a text that is no label word it has none."""
        index = int(prediction)
        return index, None if index == UNREAD else self.label_names[index]

    def record(self, outputs: np.ndarray) -> dict[str, Any]:
        """The class, its name, and the probability of each."""
        index, name = self.answer(float(self.predict(outputs)))
        exponentials = np.exp(outputs - outputs.max())
        shares = dict(zip(self.label_names, (exponentials / exponentials.sum()).tolist(), strict=True))
        return {"prediction": index, "label_name": name, "probabilities": shares}


class Regression(Task):
    """A number.

    Example:
        >>> Regression().predict(np.array([[0.5], [2.0]]))
        array([0.5, 2. ])
    """

    name, label_type, exact = "regression", np.float64, False
    loss, distillations, metrics = "squared_error", ("logits_mse",), ("pearson",)
    scores = ("random",)
    problem_type = "regression"
    answer_in_words, head_in_words = "a number", "1 output (regression)"
    columns, classes = 1, None
    in_words, labels_in_words = "regression (no `label_names`)", "the labels of a regression"

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The output itself."""
        return np.asarray(outputs[..., 0].astype(np.float64))

    def probability(self, outputs: np.ndarray) -> np.ndarray:
        """There is none."""
        return np.full(outputs.shape[:-1], np.nan)

    def closeness(self, outputs: Any, labels: Any) -> Any:
        """``1 - tanh(|output - label|)``, which is 1 only for an exact answer."""
        return 1 - (outputs[..., 0] - labels.float()).abs().tanh()

    def gains(self, predictions: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The negative squared error."""
        return -((predictions - label[:, None]) ** 2)

    def read(self, texts: Any) -> np.ndarray:
        """The number that a text is; else NaN, which no text is.

        Example:
            >>> Regression().read(["3.8", " 4 ", "-1", "1_0", "nan", "four"])
            array([ 3.8,  4. , -1. ,  nan,  nan,  nan])
        """
        return _each(texts, lambda text: float("nan" if (n := number_of(text)) is None else n), np.float64)

    def unread(self, texts: Any) -> np.ndarray:
        """What is no number."""
        return np.isnan(self.read(texts))

    def answer(self, prediction: float) -> tuple[int | float | None, str | None]:
        """The number, which has no name."""
        return None if np.isnan(prediction) else float(prediction), None

    def record(self, outputs: np.ndarray) -> dict[str, Any]:
        """The number."""
        return {"prediction": float(outputs[0])}


class Text(Task):
    """Any text, compared with references.

    A prediction is a number that equal texts share, and a label the position of the row; texts and references
    themselves are columns of their own. Nothing but a model says how sure it is.

    Example:
        >>> Text().read([["ein Hund", "ein Hund"], ["zwei Hunde", "ein Hund"]])
        array([[0, 0],
               [1, 0]])
    """

    name, label_type, exact, written = "text", np.int64, False, True
    loss, distillations, metrics = "cross_entropy", (), ("bleu",)
    scores = ("random",)
    problem_type = ""
    answer_in_words, head_in_words = "a text", "a decoder's vocabulary"
    columns, classes = 0, None
    in_words, labels_in_words = "free text", "free text"

    def __init__(self, label_names: Iterable[str] = (ANY_TEXT,)) -> None:
        super().__init__(label_names)

    def read(self, texts: Any) -> np.ndarray:
        """Numbers from 0, the same for equal texts of one call."""
        values = np.asarray(texts, dtype=object)
        known: dict[str, int] = {}
        return _each(values, lambda text: known.setdefault(text, len(known)), np.int64)

    def unread(self, texts: Any) -> np.ndarray:
        """None: any text is an answer."""
        return np.zeros(np.shape(texts), dtype=bool)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Not available."""
        raise TypeError("No column of numbers says what a decoder writes; read its texts with `read`.")

    def probability(self, outputs: np.ndarray) -> np.ndarray:
        """There is none."""
        return np.full(outputs.shape[:-1], np.nan)

    def closeness(self, outputs: Any, labels: Any) -> Any:
        """Not available."""
        raise TypeError("Texts are compared with references by a metric, not with labels.")

    def gains(self, predictions: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Not available."""
        raise TypeError("Texts are compared with references by a metric, not with labels.")

    def answer(self, prediction: float) -> tuple[int | float, str | None]:
        """A number, which has no name."""
        return int(prediction), None

    def record(self, outputs: np.ndarray) -> dict[str, Any]:
        """Nothing: the text itself is what a file of predictions holds."""
        return {}

    def head_settings(self) -> dict[str, Any]:
        """None: there is no head but the decoder's."""
        return {}


def _each(texts: Any, function: Callable[[str], Any], dtype: Any) -> np.ndarray:
    """A function of every text of a nested list or array of any shape."""
    values = np.asarray(texts, dtype=object)
    return np.array([function(text) for text in values.ravel().tolist()], dtype=dtype).reshape(values.shape)


def task_of(label_names: Iterable[str] | None) -> Task:
    """The task of data with these label names: none make a regression, ``*`` alone makes free text."""
    names = tuple(label_names or ())
    if is_free_text(names):
        return Text(names)
    return Classification(names) if names else Regression()


@cache
def task_of_columns(columns: int) -> Task:
    """The task of a row with so many outputs, where no label names are at hand: one output is a number."""
    return task_of(map(str, range(columns)) if columns > 1 else ())
