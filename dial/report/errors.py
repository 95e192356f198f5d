"""Which rows the last stage corrects and which it breaks, by how sure the earlier stage was (TangoBERT, section 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dial.files import atomic_write
from dial.stages.table import StageTable

QUANTILES = 10
COLUMNS = ("rows", "corrected", "broken", "both_right", "both_wrong")


@dataclass(frozen=True)
class StageErrors:
    """Rows of one split by quantile of one stage's score, the least sure first; counts are ``(Q,)``.

    Attributes:
        split: the rows.
        score: name of the score.
        stage: name of the stage.
        last: name of the stage that it is compared with.
        low: smallest score of each quantile, NaN where it has no rows.
        high: largest score of each quantile, NaN where it has no rows.
        corrected: rows that the stage gets wrong and the last gets right (F→T).
        broken: rows that the stage gets right and the last gets wrong (T→F).
        both_right: rows that both get right.
        both_wrong: rows that both get wrong.
    """

    split: str
    score: str
    stage: str
    last: str
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    corrected: NDArray[np.int64]
    broken: NDArray[np.int64]
    both_right: NDArray[np.int64]
    both_wrong: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each quantile ``(Q,)``."""
        return self.corrected + self.broken + self.both_right + self.both_wrong

    def share(self, name: str) -> NDArray[np.float64]:
        """A count of each quantile as a share of *all* rows, as in TangoBERT's figure 4, ``(Q,)``."""
        counts: NDArray[np.int64] = getattr(self, name)
        return counts / max(int(self.rows.sum()), 1)


def quantile_of(scores: NDArray[np.float64], quantiles: int) -> NDArray[np.int64]:
    """Which of ``quantiles`` parts, as equal as can be, each score lies in, from 0; equal scores stay together.

    A score lies where the middle of the ranks of its equals does, so a part can stay empty.

    Example:
        >>> quantile_of(np.array([0.1, 0.9, 0.5, 0.7]), 2), quantile_of(np.array([1.0, 1.0, 1.0]), 3)
        (array([0, 1, 0, 1]), array([1, 1, 1]))
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    parts: NDArray[np.int64] = np.floor(quantiles * middle / max(len(scores), 1)).astype(np.int64)
    return parts.clip(max=quantiles - 1)[inverse]


def stage_errors(table: StageTable, score: str, quantiles: int = QUANTILES) -> list[StageErrors]:
    """Each stage but the last, against the last, over all rows of one split.

    All rows count, also those that a rule would never let go on: what the last stage would have done to them is what
    the threshold spares.

    Args:
        table: rows of one split of a classification task.
        score: one that the table holds.
        quantiles: parts of equal size, by rank.

    Raises:
        ValueError: several splits, labels that are numbers, an unknown score, or no quantiles.
    """
    if len(table.splits) != 1:
        raise ValueError(f"`table` must hold one split, but got {list(table.splits)}; take one with `of_split`.")
    if not table.task.exact:
        raise ValueError("`table` must be of a classification task, where answers are right or wrong.")
    if score not in table.scores:
        raise ValueError(f"`score` must be one of {', '.join(table.scores)}, but got {score!r}.")
    if quantiles < 1:
        raise ValueError(f"`quantiles` must be 1 or more, but got {quantiles}.")
    right = table.predictions == table.label[:, None]
    last = len(table.stages) - 1
    return [
        _errors_of(table, score, stage, right[:, stage], right[:, last], quantile_of(values, quantiles), quantiles)
        for stage, values in enumerate(table.scores[score].T[:last])
    ]


def _errors_of(
    table: StageTable,
    score: str,
    stage: int,
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    part: NDArray[np.int64],
    quantiles: int,
) -> StageErrors:
    """Counts of corrected, broken, right and wrong rows in each quantile of a stage's score."""
    low, high = np.full(quantiles, np.inf), np.full(quantiles, -np.inf)
    values = table.scores[score][:, stage]
    np.minimum.at(low, part, values)
    np.maximum.at(high, part, values)
    low[np.isinf(low)], high[np.isinf(high)] = np.nan, np.nan
    names = table.splits[0], score, table.stage_names[stage], table.stage_names[-1]
    # A row's quantile, and whether the stage and the last are right, are one number.
    counts = np.bincount((part * 2 + before) * 2 + after, minlength=4 * quantiles).reshape(quantiles, 2, 2)
    return StageErrors(*names, low, high, *(counts[:, b, a] for b, a in ((0, 1), (1, 0), (1, 1), (0, 0))))


def lines(errors: Sequence[StageErrors]) -> Iterator[list[str]]:
    """Header and lines of ``errors.csv``: counts, and scores with all their digits."""
    yield ["split", "score", "stage", "last", "quantile", "low", "high", *COLUMNS]
    for each in errors:
        for index in range(len(each.rows)):
            ends = [repr(float(end[index])) if np.isfinite(end[index]) else "" for end in (each.low, each.high)]
            counts = [str(int(getattr(each, name)[index])) for name in COLUMNS]
            yield [each.split, each.score, each.stage, each.last, str(index + 1), *ends, *counts]


def errors_of_splits(table: StageTable, splits: Sequence[str], scores: Sequence[str]) -> list[StageErrors]:
    """Errors of every reported split and score; none for a single stage, or for labels that are numbers.

    Args:
        table: all rows.
        splits: those to report on.
        scores: names; the first is the one that figures show.
    """
    if not table.task.exact or len(table.stages) < 2:
        return []
    return [each for split in splits for score in scores for each in stage_errors(table.of_split(split), score)]


def write_errors(path: Path, errors: Sequence[StageErrors], partial: bool = False) -> None:
    """Write ``errors.csv``, whole or not at all.

    Args:
        path: of the file.
        errors: what it holds.
        partial: mark every line as that of a trial run.
    """
    rows = [
        [*line, *(["partial" if not index else "true"] if partial else [])] for index, line in enumerate(lines(errors))
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
