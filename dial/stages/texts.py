"""Texts of a stage table: what stages wrote, what they are compared with, and the sums of metrics that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dial.stages.metrics.metrics import METRICS
from dial.stages.metrics.texts import TextMetric
from dial.stages.task import Task

NOTHING = ("",)
"""References of a question that its context does not answer: an empty text, and that alone, is right."""
COUNT_RANGE = (0.0, float("inf"))
"""Of what metrics of texts sum up: numbers of n-grams, edits, characters."""


def sums_of(metrics: Sequence[str]) -> list[str]:
    """Names of what the metrics of free text among these sum up."""
    return [each for name in metrics if isinstance(m := METRICS.get(name), TextMetric) for each in m.sums]


def text_array(values: Any, argument: str) -> np.ndarray:
    """Texts as an array of objects, of whatever shape they come in.

    Raises:
        ValueError: one is no text.
    """
    texts = np.asarray(values, dtype=object)
    wrong = next((text for text in texts.ravel().tolist() if not isinstance(text, str)), None)
    if wrong is not None or any(text is None for text in texts.ravel().tolist()):
        raise ValueError(
            f"`{argument}` must be texts, but got {wrong!r}. Give an empty text where nothing was written."
        )
    return texts


def reference_array(values: Any) -> np.ndarray:
    """References ``(N,)`` as an array of tuples of texts; a row with one reference may give it alone.

    A single empty text says that a question has no answer.

    Args:
        values: N texts, or sequences of texts.

    Raises:
        ValueError: a row has none, or one that is no text; names the row.

    Example:
        >>> reference_array(["a dog", ["one", "two"]]).tolist()
        [('a dog',), ('one', 'two')]
    """
    result = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        accepted = tuple(value) if isinstance(value, list | tuple | np.ndarray) else (value,)
        if accepted != NOTHING and not (accepted and all(isinstance(text, str) and text.strip() for text in accepted)):
            shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
            raise ValueError(
                f"`references` must be one or several texts in every row, but row {row} has {shown}. Fill them in, or "
                "leave the row out."
            )
        result[row] = accepted
    return result


def text_statistics(
    metrics: Sequence[str],
    statistics: Mapping[str, np.ndarray],
    references: np.ndarray | None,
    texts: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """What metrics of free text sum up, ``(N, S)`` by name, as far as a table does not hold it yet.

    Args:
        metrics: names; those that are no metrics of free text are passed over.
        statistics: that are there.
        references: ``(N,)`` tuples of texts.
        texts: ``(N, S)``.

    Raises:
        ValueError: references or texts are missing, and so are the sums; or a column of the statistics has the name of
            a metric that is no mean over rows.
    """
    _check_names(statistics)
    added: dict[str, np.ndarray] = {}
    for name in metrics:
        metric = METRICS.get(name)
        if not isinstance(metric, TextMetric):
            continue
        missing = [each for each in metric.sums if each not in statistics]
        if not missing:
            continue
        if texts is None or references is None:
            what = "`references` for each row" if texts is not None else "a text for each stage (`text_<stage>`)"
            raise ValueError(
                f"`metrics` with {name} need {what}, or the sums `stat_{missing[0]}_<stage>`, but got neither. Add the "
                "columns, or choose another metric."
            )
        values = metric.statistics(references, texts)
        added |= {each: values[..., index] for index, each in enumerate(metric.sums)}
    return added


def _check_names(statistics: Mapping[str, np.ndarray]) -> None:
    """Refuse a statistic with the name of a metric that it is not: its mean would be reported as that metric."""
    for name in statistics:
        metric = METRICS.get(name)
        if isinstance(metric, TextMetric) and metric.sums != (name,):
            raise ValueError(
                f"`stat_{name}_<stage>` must not be a column, as {name} is no mean over rows but follows from "
                f"`stat_{metric.sums[0]}_<stage>` and others, or from texts and references. Rename the column "
                f"(`stat_sentence_{name}_<stage>`), or leave it out."
            )


def predictions_of(task: Task, texts: np.ndarray, predictions: Any, label: Any) -> np.ndarray:
    """What texts ``(N, S)`` mean, where it is not given; numbers that were not read become the worst ones.

    A metric such as a correlation has no term for an answer that is missing. What a text that is no number counts as
    must be wrong whatever the labels are: the end of their range that is farther from the row's label.

    Args:
        task: what texts mean.
        texts: ``(N, S)``.
        predictions: ``(N, S)``; None: those that the texts mean.
        label: ``(N,)``.
    """
    predictions = np.asarray(task.read(texts) if predictions is None else predictions)
    if predictions.dtype.kind != "f" or predictions.shape != texts.shape or np.shape(label) != texts.shape[:1]:
        return predictions
    unread = np.isnan(predictions) & task.unread(texts)
    if not unread.any():
        return predictions
    truth = np.asarray(label, dtype=np.float64)
    low, high = truth.min(), truth.max()
    worst = np.where(truth - low > high - truth, low, high)
    worst = np.where(worst == truth, truth - 1, worst)  # all labels are equal
    return np.where(unread, worst[:, None], predictions)
