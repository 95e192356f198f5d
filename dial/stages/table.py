"""The stage table: for every example and stage the output, the scores and the cost, beside the label.

The models run once; everything after is arithmetic on this table. See :mod:`dial.stages.parquet` for
the file that it is saved to, which is a public format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dial.stages import scores as score_functions
from dial.stages.checks import (
    BY_TIER,
    check_finite,
    check_labels,
    check_names,
    check_ranges,
    check_scores,
    check_shapes,
)
from dial.stages.metrics.base import UNIT_RANGE, Mean, Metric, columns
from dial.stages.metrics.metrics import METRICS, NAMED
from dial.stages.metrics.texts import TextMetric
from dial.stages.repeats import check_repeats, distinct
from dial.stages.rows import Borrowed, indices_of, is_constant, rows_of
from dial.stages.stage import Stage
from dial.stages.task import Task, task_of
from dial.stages.texts import predictions_of, reference_array, text_array, text_statistics

SCHEMA = 3
"""Of the newest file that is read: one that holds texts."""
SLIM = 2
"""Of a file in which scores, predictions and costs may be left to be computed."""
WHOLE = 1
"""Of a file that holds every column."""
AT_ONCE = 2**16
"""Rows whose scores are computed together, as many as fit into a processor's cache."""


@dataclass(frozen=True, eq=False)
class StageTable:
    """Outputs, scores and costs of ``N`` examples at ``S`` stages, ordered by cost; costs are MACs per example.

    Attributes:
        split: ``(N,)`` role of each row: ``calibration``, ``test``, ``test_matched``, …
        sample_id: ``(N,)`` integers or strings, unique within a split.
        label: ``(N,)`` int64 classes, or float64 for regression; for free text any numbers, such as positions.
        stages: the stages, cheapest first.
        predictions: ``(N, S)`` int64 classes, or float64; None: those that the texts mean.
        decide_macs: ``(N, S)`` cost up to the decision at a stage.
        macs: ``(N, S)`` cost of stopping and answering at a stage, earlier stages included.
        macs_reference: ``(N,)`` cost of the reference model alone, without routing.
        outputs: ``(N, S, C)`` float32 raw logits (``C = 1`` for regression), or None where classes are many.
        scores: ``(N, S)`` float64 by name; higher = surer.
        statistics: ``(N, S)`` float64 by name: additive statistics of metrics that label and prediction do not give;
            those of texts are computed where they are not given.
        lengths: ``(N,)`` tokens by tier.
        padded: ``(N,)`` tokens after padding by tier.
        written: ``(N,)`` tokens that a decoder wrote, by tier.
        cut_off: ``(N,)`` 1 where a decoder stopped at its limit and not at the end of the text, by tier; else 0.
        texts: ``(N, S)`` what decoders wrote, or None where stages answer otherwise.
        references: ``(N,)`` tuples of texts with which free text is compared, or None.
        group: ``(N,)`` examples that belong together, or None.
        metrics: names of the task's metrics, the primary first.
        label_names: names of the classes; empty for regression.
        settings: JSON-able: temperatures by stage, seed, length convention, fingerprints, whether ``partial``, …;
            ``ranges`` of statistics (lowest and highest; 0 to 1 where none is declared).

    Raises:
        ValueError: unequal shapes; a non-finite output (naming tier and ``sample_id``); a label outside the range; a
            stage name used twice; an unknown metric, or one of texts without references.
    """

    split: np.ndarray
    sample_id: np.ndarray
    label: np.ndarray
    stages: tuple[Stage, ...]
    predictions: np.ndarray  # None on the way in, where texts say what they are
    decide_macs: np.ndarray
    macs: np.ndarray
    macs_reference: np.ndarray
    outputs: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    padded: dict[str, np.ndarray] = field(default_factory=dict)
    written: dict[str, np.ndarray] = field(default_factory=dict)
    cut_off: dict[str, np.ndarray] = field(default_factory=dict)
    texts: np.ndarray | None = None
    references: np.ndarray | None = None
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
        if np.array_equal(self.decide_macs, self.macs):
            self._set("decide_macs", self.macs)  # held once
        ids = np.asarray(self.sample_id)
        self._set("sample_id", ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str))
        for name in ("scores", "statistics"):
            self._set(name, {key: np.asarray(value, dtype=np.float64) for key, value in getattr(self, name).items()})
        for name in BY_TIER:
            self._set(name, {key: np.asarray(value, dtype=np.int64) for key, value in getattr(self, name).items()})
        for name in ("stages", "metrics", "label_names"):
            self._set(name, tuple(getattr(self, name)))
        self._set_texts()
        check_shapes(self)
        check_names(self)
        sums = text_statistics(self.metrics, self.statistics, self.references, self.texts)
        self._set("statistics", {**self.statistics, **sums})
        check_labels(self)
        check_finite(self)
        check_scores(self)
        check_ranges(self)
        self._set("label", self.task.labels(self.label))
        self._set("predictions", self.task.labels(self.predictions))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _set_texts(self) -> None:
        if self.texts is not None:
            self._set("texts", text_array(self.texts, "texts"))
            self._set("predictions", predictions_of(self.task, self.texts, self.predictions, self.label))
        if self.references is not None:
            self._set("references", reference_array(self.references))

    def __len__(self) -> int:
        return len(self.split)

    @cached_property
    def task(self) -> Task:
        """What labels and outputs mean."""
        return task_of(self.label_names)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order of appearance."""
        names, rest = [], self.split[:1] if is_constant(self.split) else self.split
        while len(rest):
            names.append(str(rest[0]))
            rest = rest[rest != rest[0]]
        return tuple(names)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(stage.name for stage in self.stages)

    def deciding_by(self, score: str) -> StageTable:
        """The table at the costs of deciding by a score: one that only a finished answer tells comes after it.

        Args:
            score: ``settings["late"]`` names those that a decoder's answer tells.
        """
        return self._late if score in self.settings.get("late", ()) else self

    @cached_property
    def _late(self) -> StageTable:
        """Every tier answers before it decides."""
        macs, answered = self.macs.copy(), np.zeros(len(self))
        for index, stage in enumerate(self.stages):
            if index and stage.tier != self.stages[index - 1].tier:
                answered = answered + self.macs[:, index - 1] - self.decide_macs[:, index - 1]
            macs[:, index] += answered
        return dataclasses.replace(self, macs=macs, decide_macs=macs)

    def of_split(self, name: str) -> StageTable:
        """Return the rows of one split.

        Raises:
            ValueError: if no row is of this split.
        """
        if self.splits == (name,):
            return self
        mask = self.split == name
        if not mask.any():
            raise ValueError(
                f"`split` must be one of: {', '.join(self.splits)}; but got {name!r}. Choose one that the table holds."
            )
        return self.take(mask)

    def take(self, rows: np.ndarray | slice) -> StageTable:
        """Return the rows of a mask ``(N,)``, of indices ``(M,)`` or of a slice, in that order.

        What was checked of all rows holds for some of them, so nothing is checked again. All rows in their own order
        are the table itself, and those of a slice are views of it.
        """
        index = rows if isinstance(rows, slice) else indices_of(rows)
        if not isinstance(index, slice) and len(index) == len(self) and np.array_equal(index, np.arange(len(self))):
            return self
        return self._taken(index, {key: rows_of(column, index) for key, column in self.scores.items()})

    def fold(self, rows: np.ndarray) -> StageTable:
        """Like :meth:`take` of a mask or of indices, for a short while: of the scores only one is held at a time."""
        index = indices_of(rows)
        return self._taken(index, Borrowed(self.scores, index))

    def _taken(self, index: np.ndarray | slice, scores: Mapping[str, np.ndarray]) -> StageTable:
        """These rows of every column, with the given scores; not checked."""
        taken = object.__new__(type(self))
        columns: dict[int, np.ndarray] = {}  # one that serves as two is taken once
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "scores":
                value = scores
            elif isinstance(value, np.ndarray):
                if id(value) not in columns:
                    columns[id(value)] = rows_of(value, index)
                value = columns[id(value)]
            elif isinstance(value, dict) and item.name != "settings":
                value = {key: rows_of(column, index) for key, column in value.items()}
            taken._set(item.name, value)
        return taken

    def without_repeats(self, sampled: bool = False) -> StageTable:
        """Return every ``(split, sample_id)`` once: splits in order of appearance, sorted by ``sample_id`` within.

        A distributed sampler repeats rows to fill its last round; without them, and sorted, one process and several
        give the same table. How many went, by split, is added to ``settings["repeats"]``.

        Args:
            sampled: the ids are known to be unique, so that repeats are a sampler's whatever came out; outputs that
                differ are warned of.

        Raises:
            ValueError: rows of one id differ in label, length or output: they are no repeats.
        """
        if len(self.splits) == 1 and (self.sample_id[1:] > self.sample_id[:-1]).all():
            return self
        position = np.zeros(len(self), dtype=np.int64)
        for index, name in enumerate(self.splits):
            position[self.split == name] = index
        kept, repeats, originals = distinct(self.sample_id, position)
        if not len(repeats):
            return self.take(kept)
        exact = {"labels": self.label, **{f"lengths for {tier}": values for tier, values in self.lengths.items()}}
        if self.outputs is not None:
            close = {"outputs": self.outputs}
        elif self.texts is not None:  # another batch can give another text, and so other sums, to one reference
            close = {f"`{name}`": values for name, values in self.scores.items()}
            exact |= {} if self.references is None else {"references": self.references}
        else:
            close = {f"`{name}`": values for name, values in {**self.scores, **self.statistics}.items()}
            (exact if self.task.exact else close)["predictions"] = self.predictions
        check_repeats(self.sample_id, repeats, originals, exact, close, self.split, sampled)
        counts = dict(self.settings.get("repeats", {}))
        for name in self.split[repeats].tolist():
            counts[name] = counts.get(name, 0) + 1
        return dataclasses.replace(self.take(kept), settings={**self.settings, "repeats": counts})

    def with_scores(self, names: Sequence[str], seed: int | None = None) -> StageTable:
        """Return a table with these scores computed from its outputs, at the temperature of each stage.

        Args:
            names: of the task's scores.
            seed: for ``random``; by default the table's own (``settings["seed"]``), else 0.

        Raises:
            ValueError: if a score does not exist for this kind of task, or needs logits that the table does not hold.
        """
        seed = int(self.settings.get("seed") or 0) if seed is None else seed
        computed = dict(self.scores)
        for name in names:
            self.task.check_score(name, "scores")
            if name != "random" and self.outputs is None:
                known = ", ".join(dict.fromkeys([*self.scores, "random"]))
                raise ValueError(
                    f"`scores` of a table without logits must be of: {known}; "
                    f"but got {name!r}. Add the columns `output_<stage>`."
                )
            if name == "random":
                parts = [score_functions.random_score(self.sample_id, stage, seed) for stage in range(len(self.stages))]
            else:
                parts = [self.score_of_logits(name, stage) for stage in range(len(self.stages))]
            computed[name] = np.stack(parts, axis=1)
        return dataclasses.replace(self, scores=computed)

    def score_of_logits(self, name: str, stage: int) -> np.ndarray:
        """A score of a stage's logits at its temperature, ``(N,)``; what lies in between is held of few rows at a time.

        Args:
            name: one of :data:`dial.stages.scores.SCORES`.
            stage: its position.
        """
        assert self.outputs is not None
        temperature = float(self.settings.get("temperatures", {}).get(self.stage_names[stage], 1.0))
        values = np.empty(len(self))
        for begin in range(0, len(values), AT_ONCE):
            rows = slice(begin, begin + AT_ONCE)
            values[rows] = score_functions.compute(name, self.outputs[rows, stage], temperature)
        return values

    def metric_statistics(self, name: str) -> tuple[Metric, np.ndarray]:
        """Return a metric and what each example adds to its sums at each stage, ``(N, S, K)``.

        Raises:
            ValueError: if the metric is neither known nor in :attr:`statistics`.
            TypeError: if it is not additive.
        """
        return self._of_first_metric if name == self.metrics[0] else self._metric_statistics(name)

    @cached_property
    def _of_first_metric(self) -> tuple[Metric, np.ndarray]:
        """Held, as every point, fold and interval asks for it."""
        return self._metric_statistics(self.metrics[0])

    def _metric_statistics(self, name: str) -> tuple[Metric, np.ndarray]:
        """See :meth:`metric_statistics`."""
        if name in self.statistics:
            mean = Mean(name, self.range_of(name))
            return mean, mean.statistics(self.label, self.statistics[name])
        if name not in METRICS:
            allowed = ", ".join([*NAMED, *self.statistics])
            raise ValueError(f"`metric` must be one of: {allowed}; but got {name!r}. Choose one of these.")
        metric = METRICS[name]
        if isinstance(metric, TextMetric):
            missing = text_statistics([name], self.statistics, self.references, self.texts)
            return metric, columns(*({**self.statistics, **missing}[each] for each in metric.sums))
        return metric, metric.statistics(self.label, self.predictions, self.task.classes)

    def range_of(self, statistic: str) -> tuple[float, float]:
        """Return the lowest and the highest value that a statistic can have, as declared."""
        low, high = self.settings.get("ranges", {}).get(statistic, UNIT_RANGE)
        return float(low), float(high)

    def of_tiers(self, names: Sequence[str]) -> StageTable:
        """The cascade of some of the tiers, as if it had been tested without the others.

        Args:
            names: of tiers, in the table's order, with the last, which speed-ups compare with.

        Raises:
            ValueError: a name that no tier has, fewer than two, another order, the last or the reference left out; a
                table of one tier, or of somebody else's, which does not say what a tier costs without those before it.
        """
        if self.settings.get("foreign"):
            raise ValueError(
                f"`tiers` must be left out where the table is not of `dial test`, but got {', '.join(names)}; leave "
                "the other tiers' columns out of the table, and what they cost out of the costs of those behind them."
            )
        tiers = list(dict.fromkeys(stage.tier for stage in self.stages))
        if len(tiers) == 1:
            raise ValueError(
                f"`tiers` must be left out where all stages are of one tier, {tiers[0]}, but got {', '.join(names)}."
            )
        kept = [name for name in tiers if name in names]
        if len(names) < 2 or kept != list(names) or kept[-1] != tiers[-1]:
            raise ValueError(
                f"`tiers` must be two or more of {', '.join(tiers)}, in this order and with {tiers[-1]}, but got: "
                f"{', '.join(names)}."
            )
        if (reference := self.settings.get("reference")) not in (None, *names):
            raise ValueError(
                f"`tiers` must hold {reference}, which costs are compared with, but got {', '.join(names)}."
            )
        if kept == tiers:
            return self
        index = [position for position, stage in enumerate(self.stages) if stage.tier in names]
        stages = tuple(self.stages[position] for position in index)
        saved = self.macs - self.macs_without([name for name in tiers if name not in names])
        changes: dict[str, Any] = {
            name: (getattr(self, name) - saved)[:, index] for name in ("macs", "decide_macs")
        } | {
            name: None if (values := getattr(self, name)) is None else values[:, index]
            for name in ("outputs", "texts", "predictions")
        }
        for name in ("scores", "statistics"):
            changes[name] = {key: values[:, index] for key, values in getattr(self, name).items()}
        for name in BY_TIER:
            changes[name] = {key: values for key, values in getattr(self, name).items() if key in names}
        changes["settings"] = settings_of(self.settings, names, [stage.name for stage in stages])
        table = dataclasses.replace(self, stages=stages, **changes)
        return table.with_scores(["random"]) if "random" in self.scores else table  # drawn by position

    def macs_without(self, left_out: Sequence[str]) -> np.ndarray:
        """Return the costs ``(N, S)`` of stopping at each stage where some tiers do not run at all.

        Args:
            left_out: names of tiers; the costs at their own stages mean nothing then.

        A table of somebody else's does not say what a stage shares with the one before it. There all that is known is
        the cost of the last tier alone, ``macs_reference``, for rows that go to it at once.
        """
        if not left_out:
            return self.macs
        names = [stage.tier for stage in self.stages]
        macs = self.macs.copy()
        if self.settings.get("foreign"):
            if set(left_out) == set(names[:-1]) - {names[-1]}:
                macs[:, -1] = np.minimum(macs[:, -1], self.macs_reference)
            return macs
        for tier in left_out:
            first, last = names.index(tier), len(names) - 1 - names[::-1].index(tier)
            before = self.decide_macs[:, first - 1] if first else 0.0
            macs[:, last + 1 :] -= (self.decide_macs[:, last] - before)[:, None]
        return macs


def settings_of(settings: Mapping[str, Any], tiers: Sequence[str], stages: Sequence[str]) -> dict[str, Any]:
    """A table's settings without what they say of other tiers.

    >>> settings_of({"seed": 0, "tiers": {"a": {}, "b": {}}, "temperatures": {"a": 1.0, "b": 2.0}}, ["b"], ["b"])
    {'seed': 0, 'tiers': {'b': {}}, 'temperatures': {'b': 2.0}}
    """
    among = {"tiers": tiers, "batch_sizes": tiers, "temperatures": stages}
    kept = {
        key: {name: value[name] for name in among[key] if name in value}
        if key in among and isinstance(value, Mapping)  # a batch size may be one for all
        else value
        for key, value in settings.items()
    }
    read = {about["encoding"] for about in kept.get("tiers", {}).values() if "encoding" in about}
    if read and "truncated" in kept:  # by role and tokenizer
        kept["truncated"] = {
            role: {key: count for key, count in counts.items() if key in read}
            for role, counts in kept["truncated"].items()
        }
    return kept
