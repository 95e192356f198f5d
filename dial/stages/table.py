"""The stage table: for every example and stage the output, the scores and the cost, beside the label.

The models run once; everything after is arithmetic on this table. See :mod:`dial.stages.parquet` for
the file that it is saved to, which is a public format.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dial.stages import scores as score_functions
from dial.stages.checks import (
    check_finite,
    check_labels,
    check_names,
    check_ranges,
    check_scores,
    check_shapes,
)
from dial.stages.metrics.metrics import METRICS, NAMED, UNIT_RANGE, Mean, Metric
from dial.stages.repeats import check_repeats, distinct

SCHEMA = 2
"""Of the newest file that is read. In one of schema 2 scores, predictions and costs may be left to be computed."""
WHOLE = 1
"""Of a file that holds every column."""


@dataclass(frozen=True)
class Stage:
    """A point at which an answer exists and computation may stop.

    Attributes:
        name: unique in its table; letters, digits, ``_``, ``.`` and ``-``; not ``reference``, whose costs have a column
            of their own.
        tier: the model that it belongs to.
        index: which exit of that model, from 0.
    """

    name: str
    tier: str
    index: int = 0

    def __post_init__(self) -> None:
        for what in ("name", "tier"):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", getattr(self, what)):
                raise ValueError(
                    f"`{what}` of a stage must consist of letters, digits, '_', '.' and '-', "
                    f"but got {getattr(self, what)!r}. Rename it: it becomes part of column names."
                )
        if self.name == "reference":
            raise ValueError(
                "`name` of a stage must not be 'reference', as `macs_reference` is what speed-ups compare with. "
                "Rename it."
            )


@dataclass(frozen=True, eq=False)
class StageTable:
    """Outputs, scores and costs of ``N`` examples at ``S`` stages, ordered by cost; costs are MACs per example.

    Attributes:
        split: ``(N,)`` role of each row: ``calibration``, ``test``, ``test_matched``, …
        sample_id: ``(N,)`` integers or strings, unique within a split.
        label: ``(N,)`` int64 classes, or float64 for regression.
        stages: the stages, cheapest first.
        predictions: ``(N, S)`` int64 classes, or float64.
        decide_macs: ``(N, S)`` cost up to the decision at a stage.
        macs: ``(N, S)`` cost of stopping and answering at a stage, earlier stages included.
        macs_reference: ``(N,)`` cost of the reference model alone, without routing.
        outputs: ``(N, S, C)`` float32 raw logits (``C = 1`` for regression), or None where classes are many.
        scores: ``(N, S)`` float64 by name; higher = surer.
        statistics: ``(N, S)`` float64 by name: additive statistics of metrics that label and prediction do not give.
        lengths: ``(N,)`` tokens by tier.
        padded: ``(N,)`` tokens after padding by tier.
        group: ``(N,)`` examples that belong together, or None.
        metrics: names of the task's metrics, the primary first.
        label_names: names of the classes; empty for regression.
        settings: JSON-able: temperatures by stage, seed, length convention, fingerprints, whether ``partial``, …;
            ``ranges`` of statistics (lowest and highest; 0 to 1 where none is declared).

    Raises:
        ValueError: unequal shapes; a non-finite output (naming tier and ``sample_id``); a label outside the range; a
            stage name used twice; an unknown metric.
    """

    split: np.ndarray
    sample_id: np.ndarray
    label: np.ndarray
    stages: tuple[Stage, ...]
    predictions: np.ndarray
    decide_macs: np.ndarray
    macs: np.ndarray
    macs_reference: np.ndarray
    outputs: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    padded: dict[str, np.ndarray] = field(default_factory=dict)
    group: np.ndarray | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    label_names: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in (("split", str), ("group", str), ("outputs", np.float32)):
            if getattr(self, name) is not None:
                self._set(name, np.asarray(getattr(self, name), dtype=dtype))
        for name in ("decide_macs", "macs", "macs_reference"):
            self._set(name, np.asarray(getattr(self, name), dtype=np.float64))
        ids = np.asarray(self.sample_id)
        self._set("sample_id", ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str))
        for name in ("scores", "statistics"):
            self._set(name, {key: np.asarray(value, dtype=np.float64) for key, value in getattr(self, name).items()})
        for name in ("lengths", "padded"):
            self._set(name, {key: np.asarray(value, dtype=np.int64) for key, value in getattr(self, name).items()})
        for name in ("stages", "metrics", "label_names"):
            self._set(name, tuple(getattr(self, name)))
        check_shapes(self)
        check_names(self)
        check_labels(self)
        check_finite(self)
        check_scores(self)
        check_ranges(self)
        kind = np.float64 if self.regression else np.int64
        self._set("label", np.asarray(self.label).astype(kind))
        self._set("predictions", np.asarray(self.predictions).astype(kind))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def regression(self) -> bool:
        """Whether labels are real numbers: there are no label names."""
        return not self.label_names

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order of appearance."""
        names, rest = [], self.split
        while len(rest):
            names.append(str(rest[0]))
            rest = rest[rest != rest[0]]
        return tuple(names)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(stage.name for stage in self.stages)

    def of_split(self, name: str) -> StageTable:
        """Return the rows of one split.

        Raises:
            ValueError: if no row is of this split.
        """
        mask = self.split == name
        if not mask.any():
            raise ValueError(
                f"`split` must be one of: {', '.join(self.splits)}; but got {name!r}. Choose one that the table holds."
            )
        return self.take(mask)

    def take(self, rows: np.ndarray) -> StageTable:
        """Return the rows of a mask ``(N,)`` or of indices ``(M,)``, in that order."""
        index = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.intp)
        changed: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changed[item.name] = value[index]
            elif isinstance(value, dict) and item.name != "settings":
                changed[item.name] = {key: column[index] for key, column in value.items()}
        return dataclasses.replace(self, **changed)

    def without_repeats(self) -> StageTable:
        """Return every ``(split, sample_id)`` once: splits in order of appearance, sorted by ``sample_id`` within.

        A distributed sampler repeats rows to fill its last round; without them, and sorted, one process and several
        give the same table. How many went, by split, is added to ``settings["repeats"]``.

        Raises:
            ValueError: rows of one id differ in label, length or output: they are no repeats.
        """
        position = np.zeros(len(self), dtype=np.int64)
        for index, name in enumerate(self.splits):
            position[self.split == name] = index
        kept, repeats, originals = distinct(self.sample_id, position)
        if not len(repeats):
            return self.take(kept)
        exact = {"labels": self.label, **{f"lengths for {tier}": values for tier, values in self.lengths.items()}}
        if self.outputs is not None:
            close = {"outputs": self.outputs}
        else:
            close = {f"`{name}`": values for name, values in {**self.scores, **self.statistics}.items()}
            (close if self.regression else exact)["predictions"] = self.predictions
        check_repeats(self.sample_id, repeats, originals, exact, close, self.split)
        counts = dict(self.settings.get("repeats", {}))
        for name in self.split[repeats].tolist():
            counts[name] = counts.get(name, 0) + 1
        return dataclasses.replace(self.take(kept), settings={**self.settings, "repeats": counts})

    def with_scores(self, names: Sequence[str], seed: int | None = None) -> StageTable:
        """Return a table with these scores computed from its outputs, at the temperature of each stage.

        Args:
            names: of :data:`dial.stages.scores.ROUTING_SCORES`.
            seed: for ``random``; by default the table's own (``settings["seed"]``), else 0.

        Raises:
            ValueError: if a score does not exist for this kind of task, or needs logits that the table does not hold.
        """
        temperatures = self.settings.get("temperatures", {})
        seed = int(self.settings.get("seed") or 0) if seed is None else seed
        computed = dict(self.scores)
        for name in names:
            score_functions.check_score(name, self.regression, "scores")
            columns = []
            for index, stage in enumerate(self.stage_names):
                if name == "random":
                    columns.append(score_functions.random_score(self.sample_id, index, seed))
                elif self.outputs is None:
                    known = ", ".join(dict.fromkeys([*self.scores, "random"]))
                    raise ValueError(
                        f"`scores` of a table without logits must be of: {known}; "
                        f"but got {name!r}. Add the columns `output_<stage>`."
                    )
                else:
                    temperature = float(temperatures.get(stage, 1.0))
                    columns.append(score_functions.compute(name, self.outputs[:, index], temperature))
            computed[name] = np.stack(columns, axis=1)
        return dataclasses.replace(self, scores=computed)

    def metric_statistics(self, name: str) -> tuple[Metric, np.ndarray]:
        """Return a metric and what each example adds to its sums at each stage, ``(N, S, K)``.

        Raises:
            ValueError: if the metric is neither known nor in :attr:`statistics`.
            TypeError: if it is not additive.
        """
        if name in self.statistics:
            mean = Mean(name, self.range_of(name))
            return mean, mean.statistics(self.label, self.statistics[name])
        if name not in METRICS:
            allowed = ", ".join([*NAMED, *self.statistics])
            raise ValueError(f"`metric` must be one of: {allowed}; but got {name!r}. Choose one of these.")
        metric = METRICS[name]
        return metric, metric.statistics(self.label, self.predictions, len(self.label_names) or None)

    def range_of(self, statistic: str) -> tuple[float, float]:
        """Return the lowest and the highest value that a statistic can have, as declared."""
        low, high = self.settings.get("ranges", {}).get(statistic, UNIT_RANGE)
        return float(low), float(high)

    def macs_without(self, left_out: Sequence[str]) -> np.ndarray:
        """Return the costs ``(N, S)`` of stopping at each stage where some tiers do not run at all.

        Args:
            left_out: names of tiers; the costs at their own stages mean nothing then.

        A table of somebody else's does not say what a stage shares with the one before it. There all that is known is
        the cost of the last tier alone, ``macs_reference``, for rows that go to it at once.
        """
        names = [stage.tier for stage in self.stages]
        macs = self.macs.copy()
        if self.settings.get("foreign"):
            if left_out and set(left_out) == set(names[:-1]) - {names[-1]}:
                macs[:, -1] = np.minimum(macs[:, -1], self.macs_reference)
            return macs
        for tier in left_out:
            first, last = names.index(tier), len(names) - 1 - names[::-1].index(tier)
            before = self.decide_macs[:, first - 1] if first else 0.0
            macs[:, last + 1 :] -= (self.decide_macs[:, last] - before)[:, None]
        return macs

    def save(self, path: str | Path) -> None:
        """Write the table as parquet, atomically."""
        from dial.stages.parquet import save_table

        save_table(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        metrics: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        seed: int = 0,
        costs: str | None = None,
        stages: str | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> StageTable:
        """Read a table that :meth:`save` wrote, or a foreign one.

        See :func:`dial.stages.parquet.load_table`.
        """
        from dial.stages.parquet import load_table

        return load_table(path, metrics, label_names, seed, costs, stages, ranges)
