"""The stage table: for every example and stage the output, the scores and the cost, beside the label.

The models run once; everything after is arithmetic on this table. See :mod:`dial.stages.parquet` for
the file that it is saved to, which is a public format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dial.stages import scores as score_functions
from dial.stages.metrics.base import UNIT_RANGE, Mean, Metric, columns
from dial.stages.metrics.groups import GroupAccuracy
from dial.stages.metrics.metrics import AGREEMENT, METRICS, NAMED
from dial.stages.metrics.texts import TextMetric
from dial.stages.repeats import check_repeats, distinct
from dial.stages.stage import Stage
from dial.stages.task import UNREAD, Task, task_of
from dial.stages.texts import COUNT_RANGE, predictions_of, reference_array, sums_of, text_array, text_statistics

SCHEMA = 3
"""Of the newest file that is read: one that holds texts."""
SLIM = 2
"""Of a file in which scores, predictions and costs may be left to be computed."""
LARGEST_SCORE = 1e100  # beyond it differences and squares of scores are no numbers any more
WHOLE = 1
"""Of a file that holds every column."""
BY_TIER = ("lengths", "padded", "written", "cut_off")


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
    scores: dict[str, np.ndarray] = field(default_factory=dict)
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
        names, rest = [], self.split
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
        elif (
            self.texts is not None
        ):  # another batch can give another text, and so other sums; what it is to be is the same
            close = {f"`{name}`": values for name, values in self.scores.items()}
            exact |= {} if self.references is None else {"references": self.references}
        else:
            close = {f"`{name}`": values for name, values in {**self.scores, **self.statistics}.items()}
            (exact if self.task.exact else close)["predictions"] = self.predictions
        check_repeats(self.sample_id, repeats, originals, exact, close, self.split)
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
        temperatures = self.settings.get("temperatures", {})
        seed = int(self.settings.get("seed") or 0) if seed is None else seed
        computed = dict(self.scores)
        for name in names:
            self.task.check_score(name, "scores")
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
        if isinstance(metric, TextMetric):
            missing = text_statistics([name], self.statistics, self.references, self.texts)
            return metric, columns(*({**self.statistics, **missing}[each] for each in metric.sums))
        return metric, metric.statistics(self.label, self.predictions, self.task.classes)

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


def check_shapes(table: StageTable) -> None:
    """Refuse columns of unequal shapes."""
    rows, stages = len(table.split), len(table.stages)
    wanted: list[tuple[str, Any, tuple[int, ...]]] = []
    for name in ("split", "sample_id", "label", "macs_reference", "group", "references"):
        wanted.append((name, getattr(table, name), (rows,)))
    for name in ("predictions", "decide_macs", "macs", "texts"):
        wanted.append((name, getattr(table, name), (rows, stages)))
    shapes: dict[str, tuple[int, ...]] = {"scores": (rows, stages), "statistics": (rows, stages)}
    for name, shape in {**shapes, **dict.fromkeys(BY_TIER, (rows,))}.items():
        wanted += [(f"{name}[{key!r}]", value, shape) for key, value in getattr(table, name).items()]
    if table.outputs is not None:
        wanted.append(("outputs", table.outputs, (rows, stages, *table.outputs.shape[2:3])))
        if table.outputs.ndim != 3:
            wanted.append(("outputs", table.outputs, (rows, stages, table.task.columns)))
    for name, value, shape in wanted:
        if value is not None and np.shape(value) != shape:
            raise ValueError(
                f"`{name}` must have shape {shape} for {rows} examples and {stages} stages, but got {np.shape(value)}. "
                "Give every column one entry for each example and stage."
            )


def check_names(table: StageTable) -> None:
    """Refuse stages without a name of their own, and metrics that cannot be computed."""
    names = [stage.name for stage in table.stages]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`stages` must be one or more, each with its own name, but got {names}. Rename the repeated one."
        )
    known = [*NAMED, AGREEMENT, *table.statistics]
    wrong = [name for name in table.metrics if name not in known]
    if wrong or not table.metrics:
        raise ValueError(
            f"`metrics` must name one or more of: {', '.join(known)}; but got {wrong[0] if wrong else 'none'!r}. "
            "Choose from these, or add the metric's statistic to the table."
        )
    for name in table.metrics:
        if name not in table.statistics:
            table.task.check_metric(name)
    if GroupAccuracy.name in table.metrics and table.group is None:
        raise ValueError(
            f"`metrics` with {GroupAccuracy.name} need a column `group`, such as the question that a row answers, but "
            "the table has none. Add it, or leave the metric out."
        )


def check_labels(table: StageTable) -> None:
    """Refuse labels that are no class, or not finite, and logits that do not fit the label names."""
    label = np.asarray(table.label)
    bad = ~np.isfinite(label)
    allowed = "a finite number"
    if (classes := table.task.classes) is not None:
        if table.outputs is not None and table.outputs.shape[-1] != classes:
            raise ValueError(
                f"`outputs` must have one logit for each of the {classes} labels {list(table.label_names)}, "
                f"but got {table.outputs.shape[-1]}. Check the number of labels of every tier."
            )
        allowed = f"0 to {classes - 1}, for the labels {list(table.label_names)}"
        lowest = UNREAD if AGREEMENT in table.metrics and table.texts is not None else 0  # the last stage's answers
        bad |= (label != np.floor(label)) | (label < lowest) | (label >= classes)
        _check_predictions(table, allowed)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"`label` must be {allowed}, but got {label[row]} for sample_id {table.sample_id[row]} of split "
            f"{str(table.split[row])!r}. Correct the label, or leave unlabelled rows out."
        )


def _check_predictions(table: StageTable, allowed: str) -> None:
    """Refuse predictions between two classes, which would be cut to the lower one."""
    values = np.asarray(table.predictions)
    between = np.isfinite(values) & (values != np.floor(values)) if values.dtype.kind == "f" else np.zeros(1, bool)
    if between.any():
        row, stage = np.argwhere(between)[0]
        raise ValueError(
            f"`prediction_{table.stages[stage].name}` must be {allowed}, but got {values[row, stage]} for sample_id "
            f"{table.sample_id[row]} of split {str(table.split[row])!r}. Give classes, or no label names for a "
            "regression."
        )


def check_scores(table: StageTable) -> None:
    """Refuse scores that could decide and are not finite: no threshold is above plus infinity, none fits NaN.

    Those of the last stage decide nothing and are not read.
    """
    for name, values in table.scores.items():
        bad = ~(np.abs(values[:, :-1]) <= LARGEST_SCORE)
        if bad.any():
            row, stage = np.argwhere(bad)[0]
            raise ValueError(
                f"`{name}_{table.stages[stage].name}` must be finite (at most {LARGEST_SCORE:g} in size), as "
                f"thresholds lie between scores, but got {values[row, stage]} for sample_id {table.sample_id[row]} of "
                f"split {str(table.split[row])!r}. Give a row that must stay the largest of the other scores."
            )


def check_ranges(table: StageTable) -> None:
    """Refuse statistics outside the range that they declare, on which every guard against an unseen loss rests."""
    ranges = table.settings.get("ranges", {})
    for name, (low, high) in ranges.items():
        if name not in table.statistics:
            raise ValueError(
                f"`ranges` must be of statistics that the table holds ({', '.join(table.statistics) or 'none'}), "
                f"but got {name!r}. Add the columns `stat_{name}_<stage>`, or leave it out."
            )
        if not -np.inf < low < high < np.inf:
            raise ValueError(f"`ranges` of {name!r} must be a lower and a higher finite number, but got {low}, {high}.")
    counts = dict.fromkeys(sums_of(table.metrics), COUNT_RANGE)
    means = {name: UNIT_RANGE for name in table.metrics if name in table.statistics}
    for name, (low, high) in {**counts, **means, **ranges}.items():
        values = table.statistics[name]
        bad = ~((values >= low) & (values <= min(high, LARGEST_SCORE)))
        if bad.any():
            row, stage = np.argwhere(bad)[0]
            raise ValueError(
                f"`stat_{name}_{table.stages[stage].name}` must lie in its range, {low:g} to {high:g}, but got "
                f"{values[row, stage]} for sample_id {table.sample_id[row]} of split {str(table.split[row])!r}. "
                f"Declare another (`dial sweep --range {name} LOW HIGH`), or correct the value."
            )


def check_finite(table: StageTable) -> None:
    """Refuse outputs, predictions and costs that are not finite, and costs below 0, naming tier and example."""
    for name in ("outputs", "predictions"):
        values = getattr(table, name)
        # A sum is finite only if all its terms are: one cheap pass in the usual case.
        if values is None or np.isfinite(np.sum(values, dtype=np.float64)):
            continue
        row, stage = np.argwhere(~np.isfinite(values))[0][:2]
        raise ValueError(
            f"`{name}` must be finite, but got {np.asarray(values[row, stage]).tolist()} from tier "
            f"{table.stages[stage].tier!r} (stage {table.stages[stage].name!r}) for sample_id {table.sample_id[row]} "
            f"of split {str(table.split[row])!r}. Check the tier's weights and dtype, or leave the row out."
        )
    for name in ("macs", "macs_reference", "decide_macs"):
        values, decide = getattr(table, name), name == "decide_macs"
        bad = ~np.isfinite(values) | (values < 0 if decide else values <= 0)
        if bad.any():
            place = tuple(np.argwhere(bad)[0])
            stage = f" at stage {table.stages[place[1]].name!r}" if len(place) > 1 else ""
            raise ValueError(
                f"`{name}` must be finite and {'at least' if decide else 'above'} 0, but got {values[place]}{stage} "
                f"for sample_id {table.sample_id[place[0]]} of split {str(table.split[place[0]])!r}. Correct the cost."
            )
