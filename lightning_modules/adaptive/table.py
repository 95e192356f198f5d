"""The stage table: for every example and stage the output, the scores and the cost, beside the label.

The models run once; everything after is arithmetic on this table. See :mod:`lightning_modules.adaptive.parquet` for
the file that it is saved to, which is a public format.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.adaptive import scores as score_functions
from lightning_modules.adaptive.metrics import METRICS, Mean, Metric

SCHEMA = 1


@dataclass(frozen=True)
class Stage:
    """A point at which an answer exists and computation may stop.

    Attributes:
        name: unique in its table; letters, digits, ``_``, ``.`` and ``-``.
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
        settings: JSON-able: temperatures by stage, seed, length convention, fingerprints, whether ``partial``, …

    Raises:
        ValueError: unequal shapes; a non-finite output (naming tier and ``sample_id``); a label outside the range; a stage
            name used twice; an unknown metric.
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
        as_is = dict.fromkeys(("split", "group"), str)
        real = dict.fromkeys(("decide_macs", "macs", "macs_reference"), np.float64)
        kinds: dict[str, Any] = {**as_is, **real, "outputs": np.float32}
        for name, kind in kinds.items():
            if getattr(self, name) is not None:
                self._set(name, np.asarray(getattr(self, name), dtype=kind))
        ids = np.asarray(self.sample_id)
        self._set("sample_id", ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str))
        for name, kind in (
            ("scores", np.float64),
            ("statistics", np.float64),
            ("lengths", np.int64),
            ("padded", np.int64),
        ):
            self._set(name, {key: np.asarray(value, dtype=kind) for key, value in getattr(self, name).items()})
        for name in ("stages", "metrics", "label_names"):
            self._set(name, tuple(getattr(self, name)))
        self._check_shapes()
        self._check_names()
        self._check_labels()
        self._check_finite()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_shapes(self) -> None:
        rows, stages = len(self.split), len(self.stages)
        classes = self.outputs.shape[-1] if self.outputs is not None and self.outputs.ndim else 0
        for name, value, shape in [
            *((name, getattr(self, name), (rows,)) for name in ("split", "sample_id", "label", "macs_reference")),
            *((name, getattr(self, name), (rows, stages)) for name in ("predictions", "decide_macs", "macs")),
            *((f"scores[{name!r}]", value, (rows, stages)) for name, value in self.scores.items()),
            *((f"statistics[{name!r}]", value, (rows, stages)) for name, value in self.statistics.items()),
            *((f"lengths[{name!r}]", value, (rows,)) for name, value in self.lengths.items()),
            *((f"padded[{name!r}]", value, (rows,)) for name, value in self.padded.items()),
            ("group", self.group, (rows,)),
            ("outputs", self.outputs, (rows, stages, classes)),
        ]:
            if value is not None and np.shape(value) != shape:
                raise ValueError(
                    f"`{name}` must have shape {shape} for {rows} examples and {stages} stages, but got {np.shape(value)}. "
                    "Give every column of the table one entry per example and stage."
                )

    def _check_names(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"`stages` must be at least one stage, each with its own name, but got {names}. Rename the repeated one."
            )
        for name in self.metrics:
            if name not in METRICS and name not in self.statistics:
                allowed = ", ".join([*METRICS, *self.statistics])
                raise ValueError(
                    f"`metrics` must be of: {allowed}; but got {name!r}. Choose from these, or add its statistic."
                )
        if not self.metrics:
            raise ValueError("`metrics` must name at least one metric, but got none. Give the task's primary metric.")

    def _check_labels(self) -> None:
        label, predictions = np.asarray(self.label), np.asarray(self.predictions)
        if self.regression:
            self._set("label", label.astype(np.float64))
            self._set("predictions", predictions.astype(np.float64))
            bad = ~np.isfinite(self.label)
            allowed = "a finite number"
        else:
            classes = len(self.label_names)
            if self.outputs is not None and self.outputs.shape[-1] != classes:
                raise ValueError(
                    f"`outputs` must have one logit for each of the {classes} labels {list(self.label_names)}, "
                    f"but got {self.outputs.shape[-1]}. Check the number of labels of every tier."
                )
            allowed = f"0 to {classes - 1}, for the labels {list(self.label_names)}"
            whole = label.astype(np.int64)
            bad = (whole != label) | (whole < 0) | (whole >= classes)
            self._set("label", whole)
            self._set("predictions", predictions.astype(np.int64))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"`label` must be {allowed}, but got {label[row]} for sample_id {self.sample_id[row]} of split "
                f"{self.split[row]!r}. Correct the label, or leave unlabelled rows out."
            )

    def _check_finite(self) -> None:
        for name, values in (("outputs", self.outputs), ("macs", self.macs), ("decide_macs", self.decide_macs)):
            # A sum is finite only if all its terms are: one cheap pass in the usual case.
            if values is None or np.isfinite(values.sum(dtype=np.float64)):
                continue
            row, stage = np.argwhere(~np.isfinite(values))[0][:2]
            raise ValueError(
                f"`{name}` must be finite, but got {np.asarray(values[row, stage]).tolist()} from tier {self.stages[stage].tier!r} "
                f"(stage {self.stages[stage].name!r}) for sample_id {self.sample_id[row]} of split {self.split[row]!r}. "
                "Check the tier's weights and dtype, or leave the row out."
            )

    def __len__(self) -> int:
        return len(self.split)

    @property
    def regression(self) -> bool:
        """Whether labels are real numbers: there are no label names."""
        return not self.label_names

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order of appearance."""
        return tuple(dict.fromkeys(self.split.tolist()))

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
        give the same table.
        """
        order_of = {name: position for position, name in enumerate(self.splits)}
        position = np.array([order_of[name] for name in self.split.tolist()], dtype=np.int64)
        order = np.lexsort((self.sample_id, position))
        first = np.ones(len(order), dtype=bool)
        ids, places = self.sample_id[order], position[order]
        first[1:] = (ids[1:] != ids[:-1]) | (places[1:] != places[:-1])
        return self.take(order[first])

    def with_scores(self, names: Sequence[str], seed: int | None = None) -> StageTable:
        """Return a table with these scores computed from its outputs, at the temperature of each stage.

        Args:
            names: of :data:`lightning_modules.adaptive.scores.ROUTING_SCORES`.
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
            for index, stage in enumerate(self.stages):
                if name == "random":
                    columns.append(score_functions.random_score(self.sample_id, index, seed))
                elif self.outputs is None:
                    raise ValueError(
                        f"`scores` {name!r} needs logits, but the table has no `output_{stage.name}`. Add these columns."
                    )
                else:
                    temperature = float(temperatures.get(stage.name, 1.0))
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
            mean = Mean(name)
            return mean, mean.statistics(self.label, self.statistics[name])
        if name not in METRICS:
            allowed = ", ".join([*METRICS, *self.statistics])
            raise ValueError(f"`metric` must be one of: {allowed}; but got {name!r}. Choose one of these.")
        metric = METRICS[name]
        return metric, metric.statistics(self.label, self.predictions, len(self.label_names) or None)

    def save(self, path: str | Path) -> None:
        """Write the table as parquet, atomically."""
        from lightning_modules.adaptive.parquet import save_table

        save_table(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        metrics: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        seed: int = 0,
    ) -> StageTable:
        """Read a table that :meth:`save` wrote, or a foreign one; see :func:`lightning_modules.adaptive.parquet.load_table`."""
        from lightning_modules.adaptive.parquet import load_table

        return load_table(path, metrics=metrics, label_names=label_names, seed=seed)
