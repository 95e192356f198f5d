"""What a sweep found, as values: those that ``summary.json`` holds."""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from dial.files import read_json, readable
from dial.report.settings import SweepSettings
from dial.tradeoff.bootstrap import Interval

READINGS = {"in_sample": "in-sample", "per_stage": "per stage*", "fixed": "as given"}
"""Kinds of points that a reader knows by another name."""


def from_json(kind: Any, value: Any) -> Any:
    """A value of ``kind`` (a dataclass, a builtin, or lists, dicts and unions with None of these) from JSON.

    Entries that the dataclass does not name are left out; where there may be nothing, an empty object is None.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the JSON is of something else.

    Example:
        >>> from_json(dict[str, list[float | None]], {"thresholds": ["inf", None]})
        {'thresholds': [inf, None]}
    """
    outer, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{name: from_json(kinds[name], value[name]) for name in kinds if name in value})  # type: ignore[operator]
    if outer is UnionType:
        return None if value is None or value == {} else from_json(inner[0], value)
    if outer is list:
        return [from_json(inner[0], each) for each in value]
    if outer is dict:
        return {key: from_json(inner[1], each) for key, each in value.items()}
    if outer is tuple:
        return tuple(from_json(each, part) for each, part in zip(inner, value, strict=True))
    return float(value) if kind is float else value


@dataclass(frozen=True)
class StageEntry:
    """A stage of the table: its name, its tier, its place inside of it, and the tier's parameters and folder."""

    name: str
    tier: str
    index: int
    parameters: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class StageResult:
    """A stage that answers every row of a split, at the cost of all that runs before it.

    Attributes:
        name: of the stage.
        quality: by metric, a fraction.
        kept: share of the last stage's quality; None where that is not positive.
        macs: mean cost per row.
        speedup: mean cost of the reference over it.
        quality_interval: 95 %, of the first metric.
        kept_interval: 95 %.
    """

    name: str
    quality: dict[str, float | None]
    kept: float | None
    macs: float
    speedup: float
    quality_interval: Interval | None = None
    kept_interval: Interval | None = None


@dataclass(frozen=True)
class Promise:
    """What the calibration rows said of a point; ``margin_bound`` is that of the `confident` reading."""

    quality: float | None
    kept: float | None
    macs: float
    margin_bound: float | None


@dataclass(frozen=True)
class PointResult:
    """An operating point and what it does with the rows of a split.

    Attributes:
        score: decides; ``oracle`` knows the labels.
        rule: see :data:`dial.tradeoff.curve.RULES`.
        kind: the reading: expected, confident, per_stage, budget, fixed, crossing or in_sample.
        target: share of the Super's quality; of a budget MACs per row, of ``fixed`` the patience.
        thresholds: one for each stage but the last; of the oracle none.
        quality: by metric, a fraction.
        kept: share of the Super's quality; None where that is not positive.
        macs: mean cost per row.
        flops: twice that.
        speedup: mean cost of the reference over it.
        shares: of the rows that each stage answers, by its name.
        swift_ratio: that of the first stage.
        held: whether the target held on these rows; None where there is none.
        kept_interval: 95 %.
        quality_interval: 95 %, of the first metric.
        speedup_interval: 95 %.
        speedup_by_length: when rows are charged by another length.
        calibration: what the rows that it was chosen on said; None in sample.
        certified_shares: lowest and highest share of rows that stop early among the points that passed (`confident`).
        tolerance: of patience: numbers agree if they differ by less.
        only_super: nothing cheaper qualifies.
        rows_needed: calibration rows that a first saving would need.
        note: what a reader must know.
        folds: the points of the folds, where it was cross-fitted: thresholds and promise.
        exploratory: nothing is promised of it.
        selection_inflation: in-sample speed-up minus the cross-fitted one, on the same rows.
        calibration_shift: speed-up minus the cross-fitted one.
    """

    score: str
    rule: str
    kind: str
    target: float | None
    thresholds: list[float]
    quality: dict[str, float | None]
    kept: float | None
    macs: float
    flops: float
    speedup: float
    shares: dict[str, float]
    swift_ratio: float
    held: bool | None
    kept_interval: Interval | None = None
    quality_interval: Interval | None = None
    speedup_interval: Interval | None = None
    speedup_by_length: dict[str, float] = field(default_factory=dict)
    calibration: Promise | None = None
    certified_shares: Interval | None = None
    tolerance: float | None = None
    only_super: bool = False
    rows_needed: int | None = None
    note: str = ""
    folds: list[dict[str, Any]] = field(default_factory=list)
    exploratory: bool = False
    selection_inflation: float | None = None
    calibration_shift: float | None = None

    @property
    def reading(self) -> str:
        """The kind, as readers know it."""
        return READINGS.get(self.kind, self.kind)


@dataclass(frozen=True)
class ScoreResult:
    """How well a score routes: its normalised area, and the ``rule/score`` of those that route identically."""

    score: str
    rule: str
    normalised_area: float | None
    normalised_area_interval: Interval | None
    same_as: list[str]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TargetDifference:
    """First minus second of a pair of scores at their `expected` points of one target."""

    target: float
    speedup: float
    speedup_interval: Interval | None
    quality: float | None
    quality_interval: Interval | None


@dataclass(frozen=True)
class ScorePair:
    """First minus second of two scores, on the same resamples."""

    first: str
    second: str
    targets: list[TargetDifference]
    normalised_area: float | None = None
    normalised_area_interval: Interval | None = None


@dataclass(frozen=True)
class Crossing:
    """Where the densities of right and wrong rows cross between their modes: "none", "one" or "several"."""

    status: str
    crossings: list[float]


@dataclass(frozen=True)
class SimpleStage:
    """Quality of a stage on simple instances."""

    quality: float | None
    interval: Interval | None


@dataclass(frozen=True)
class SimplePoint:
    """An operating point on simple instances; see :class:`PointResult`."""

    kind: str
    target: float
    quality: float | None
    quality_interval: Interval | None
    kept: float | None
    kept_interval: Interval | None
    speedup: float
    speedup_interval: Interval | None
    speedup_by_length: dict[str, float]


@dataclass(frozen=True)
class SimpleResult:
    """Rows shorter than the median by the tokens of a tier (COST-EFF, section 4.2.1)."""

    tier: str
    median: float
    rows: int
    stages: list[SimpleStage] = field(default_factory=list)
    points: list[SimplePoint] = field(default_factory=list)


@dataclass(frozen=True)
class Compression:
    """Parameters of a multi-exit tier and of its encoder unpruned, with COST-EFF's factor and that of other weights."""

    parameters: float
    unpruned: float
    factor: float
    factor_without_embeddings: float


@dataclass(frozen=True)
class SplitResult:
    """What was found on the rows of one split.

    Attributes:
        rows: their number.
        reference_macs: mean cost of the reference alone.
        stages: each alone.
        remarks: what a reader must know of the rows.
        shift: how they differ from the calibration rows, where they do.
        points: all operating points; of a single stage none.
        scores: each score and rule.
        pairs: each two of these.
        crossings: by score and stage.
        simple: simple instances; None without lengths.
        lengths_left_out: by length convention why its speed-ups are not stated.
    """

    rows: int
    reference_macs: float
    stages: list[StageResult]
    remarks: list[str] = field(default_factory=list)
    shift: dict[str, Any] = field(default_factory=dict)
    points: list[PointResult] = field(default_factory=list)
    scores: list[ScoreResult] = field(default_factory=list)
    pairs: list[ScorePair] = field(default_factory=list)
    crossings: dict[str, dict[str, Crossing]] = field(default_factory=dict)
    simple: SimpleResult | None = None
    lengths_left_out: dict[str, str] = field(default_factory=dict)

    def select(self, **entries: Any) -> list[PointResult]:
        """Operating points with the given entries."""
        return [p for p in self.points if all(getattr(p, name) == value for name, value in entries.items())]


@dataclass(frozen=True)
class SweepResults:
    """Everything that a sweep found.

    Attributes:
        partial: a trial run: no number means anything.
        configuration: fingerprint of what the results depend on.
        metrics: names; the first is the one that points are chosen by.
        stages: in order of execution.
        splits: by name of the reported split.
        settings: what was chosen, with the scores that there are.
        table: settings of the stage table.
        calibration: ``method`` and ``rows``.
        task: name of the data set, where it is known.
        label_names: of the classes; of regression none.
        compression: by multi-exit tier.
    """

    partial: bool
    configuration: str
    metrics: list[str]
    stages: list[StageEntry]
    splits: dict[str, SplitResult]
    settings: SweepSettings
    table: dict[str, Any]
    calibration: dict[str, Any]
    task: str | None = None
    label_names: list[str] = field(default_factory=list)
    compression: dict[str, Compression] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.metrics[0]

    @property
    def unit(self) -> str:
        """What costs are counted in: MACs, or the milliseconds of a table of times."""
        return "MACs" if self.table.get("unit") is None else "ms"

    @property
    def stage_names(self) -> list[str]:
        """Names of the stages."""
        return [stage.name for stage in self.stages]

    @cached_property
    def multi_exit_tiers(self) -> list[str]:
        """Tiers with more than one exit, in order."""
        tiers = [stage.tier for stage in self.stages]
        return [tier for tier in dict.fromkeys(tiers) if tiers.count(tier) > 1]


def read_results(path: str | Path, argument: str) -> SweepResults:
    """The results in a ``summary.json``.

    Raises:
        ValueError: it is damaged; names ``argument``.
    """
    content = read_json(path, argument)
    with readable(path, argument):
        results: SweepResults = from_json(SweepResults, content)
        return results
