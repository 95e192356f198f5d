"""Choosing operating points on calibration rows: for a target, for a budget, at the crossing of two densities."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
from scipy.special import ndtri

from dial.stages.metrics.base import Metric
from dial.stages.table import StageTable
from dial.tradeoff.bounds import Margins, lower_bound, rows_needed
from dial.tradeoff.curve import Curve
from dial.tradeoff.density import Densities, densities
from dial.tradeoff.levels import Levels
from dial.tradeoff.point import OperatingPoint, Promise
from dial.tradeoff.rule import Rule
from dial.tradeoff.taken import Taken, additive, metric_of, right_rows, row_statistics, super_alone

Key = TypeVar("Key", bound=Hashable)
NOTHING_TO_KEEP = "only the Super qualifies; its quality is not above zero, so there is nothing to keep"
SEARCHED = 4096
"""Rows that a search for one threshold per stage looks at, where there are more."""
AT_ONCE = 2**16
"""Rows whose folds are found together."""
FIRST_TESTED = 0.05
"""Share of rows that stop early at the first point that ``confident`` tests: below, nothing worth while is saved."""
FIRST_TESTED_WITHOUT_SLACK = 0.25
"""The same where the target leaves no room for losses that were not seen, as 100 % never does: only where the cheaper
point answers this many rows can it be seen to be as good."""


@dataclass(frozen=True)
class Chooser:
    """Chooses operating points of one rule on the rows given to it.

    Attributes:
        table: calibration rows; what is kept is their first metric.
        rule: whose values are chosen.
        before: of another rule on the same rows; where it moves them in the same order, what it knows is not computed
            again.
    """

    table: StageTable
    rule: Rule
    before: "Chooser | None" = None

    @cached_property
    def measured(self) -> Metric:
        """The metric that is kept."""
        return additive(metric_of(self.table))

    @cached_property
    def curve(self) -> Curve:
        """All points of the dial on the calibration rows."""
        curve = self.rule.curve(self.table)
        if self.before is not None:
            curve = curve.like(self.before.curve)
            object.__setattr__(self, "before", None)  # curves are large, and this one is needed no more
        return curve

    @property
    def statistics(self) -> np.ndarray:
        """``(N, S, K)``."""
        return row_statistics(self.table, self.measured)

    @cached_property
    def levels(self) -> Levels:
        """Thresholds that a search for one threshold per stage tries."""
        table = self.table.deciding_by(self.rule.score)
        return Levels.of(self.rule.values(table), table.sample_id, table.macs, self.statistics, SEARCHED)

    @property
    def quality(self) -> np.ndarray:
        """``(P,)``; the last is the Super's."""
        return self.curve.quality_by(self.measured.name)

    @property
    def nothing_to_keep(self) -> bool:
        """Whether the Super's quality is not above zero, so that any share of it is kept by anything."""
        return not self.quality[-1] > 0

    @property
    def macs(self) -> np.ndarray:
        """Mean cost at each point ``(P,)``; at the last, where no row may stop early, that of the Super alone."""
        macs: np.ndarray = self.curve.kept("macs with the Super alone", self._macs)
        return macs

    def _macs(self) -> np.ndarray:
        """The curve's mean costs, with the Super's own at the last point."""
        macs = self.curve.macs.copy()
        macs[-1] = super_alone(self.table).macs.mean()
        return macs

    def expected(self, target: float) -> OperatingPoint:
        """Cheapest point whose quality on these rows is at least ``target`` times the Super's.

        Where the Super's own quality is not above zero there is nothing to keep, and it answers alone.
        """
        if self.nothing_to_keep:
            return self._point(len(self.macs) - 1, "expected", target, note=NOTHING_TO_KEEP)
        allowed = self.quality >= target * self.quality[-1] - 1e-12
        allowed[-1] = True
        return self._point(_cheapest(allowed, self.macs, self.quality), "expected", target)

    def confident(self, target: float, confidence: float = 0.9) -> OperatingPoint:
        """Cheapest certified point, or the Super alone.

        The hypotheses "quality < target · Super" are tested in an order fixed before looking at any answer: from a
        first point on, each with fewer deferred rows, until one is not rejected. So the chance that the point returned
        misses the target is at most 1 − ``confidence``, however many are tested (fixed-sequence testing). Those that
        pass are certified. The first point is where :data:`FIRST_TESTED` of the rows stop early and the mean cost is at
        most that of the Super alone; next to the Super itself there is nothing to be seen and nothing to be saved.
        """
        tested, margin, variance, loss = self._margins.at(target)
        if self.nothing_to_keep:
            return self._super(target, margin, NOTHING_TO_KEEP)
        first = self._first_tested(tested, target, confidence, loss)
        if first is None:
            note = "only the Super qualifies; no point that is tested costs less than it does alone"
            return self._super(target, margin, note)
        bound = lower_bound(margin, variance, loss, confidence, self._margins.groups)
        failed = np.flatnonzero(bound[: first + 1] < 0)
        last = int(failed[-1]) + 1 if len(failed) else 0
        if last > first:
            return self._none_certified(target, confidence, first, margin, variance, loss)
        certified = tested[last : first + 1]
        best = last + _cheapest(np.ones(len(certified), bool), self.macs[certified], self.quality[certified])
        early = self._margins.early[last : first + 1]
        shares = (float(early.min()), float(early.max()))
        if self.macs[tested[best]] > self.macs[-1]:
            return self._super(
                target, margin, "only the Super qualifies; no certified point costs less", certified=shares
            )
        return self._point(tested[best], "confident", target, margin_bound=float(bound[best]), certified=shares)

    def _first_tested(self, tested: np.ndarray, target: float, confidence: float, loss: np.ndarray) -> int | None:
        """Which of the points ``(T,)`` is tested first, chosen without looking at any answer; None if none is."""
        z = ndtri(confidence)
        # What the target allows to be lost against what no sample of this size can rule out.
        slack = 1 - target >= ((z**2 + 2) / 3 + z) * float(loss[-1])
        early, macs = self._margins.early, self.macs[tested]
        share = FIRST_TESTED if slack else FIRST_TESTED_WITHOUT_SLACK
        enough = np.flatnonzero((early >= share) & (macs <= self.macs[-1]))
        return int(enough[-1]) if len(enough) else None

    def _none_certified(self, target: float, confidence: float, first: int, *measured: np.ndarray) -> OperatingPoint:
        """The Super alone, with the rows that the first point tested would need."""
        margin, variance, loss = (float(values[first]) for values in measured)
        needed = rows_needed(margin, variance, loss, len(self.table), confidence)
        early = 100 * float(self._margins.early[first])
        where = f"the first point tested, at which {early:.0f} % of the rows stop early"
        if needed is None:
            note = f"only the Super qualifies; {where}, keeps less than the target on these rows"
        else:
            note = f"only the Super qualifies; {where}, needs {needed} rows or more"
        return self._super(target, measured[0], note, rows_needed=needed)

    def _super(self, target: float, margin: np.ndarray, note: str, **more: Any) -> OperatingPoint:
        return self._point(len(self.macs) - 1, "confident", target, margin_bound=float(margin[-1]), note=note, **more)

    @property
    def _margins(self) -> Margins:
        margins: Margins = self.curve.kept("margins", lambda: Margins(self.curve, self.statistics, self.measured))
        return margins

    def budget(self, macs: float) -> OperatingPoint:
        """Best quality at no more than ``macs`` per row on average, the cheaper of equals.

        Raises:
            ValueError: even the cheapest point costs more.
        """
        point = self.near_budget(macs)
        if point.promise.note:
            low, high = self.macs.min(), self.macs.max()
            raise ValueError(f"`budgets` must lie in [{low:.6g}, {high:.6g}] MACs per row, but got {macs:.6g}.")
        return point

    def near_budget(self, macs: float) -> OperatingPoint:
        """Like :meth:`budget`, but the cheapest point, with a note, where all cost more."""
        allowed = self.macs <= macs * (1 + 1e-12)
        if not allowed.any():
            cheapest = _cheapest(np.ones(len(allowed), bool), self.macs, self.quality)
            note = f"not reached, as the cheapest point costs {self.macs[cheapest]:.4g}"
            return self._point(cheapest, "budget", macs, note=note)
        return self._point(
            _cheapest(allowed & (self.quality >= self.quality[allowed].max()), self.macs), "budget", macs
        )

    @cached_property
    def crossings(self) -> list[Densities]:
        """Densities of each stage's score on the rows that it gets right and wrong, last stage left out.

        Free text is right where it is worth as much as the last stage's.
        """
        right = right_rows(self.table)
        scores = self.rule.values(self.table)
        return [densities(scores[:, s], right[:, s]) for s in range(scores.shape[1] - 1)]

    def crossing_thresholds(self) -> list[float] | str:
        """E-LANG's crossing at each stage but the last, or why there is none."""
        missing = [
            f"{stage.name}: {d.status}"
            for stage, d in zip(self.table.stages, self.crossings, strict=False)
            if d.threshold is None
        ]
        return "; ".join(missing) or [d.threshold for d in self.crossings if d.threshold is not None]

    def crossing(self) -> OperatingPoint | str:
        """The point at E-LANG's crossing, or why there is none."""
        thresholds = self.crossing_thresholds()
        return thresholds if isinstance(thresholds, str) else self.at(thresholds, "crossing", None)

    def fixed(self, threshold: float) -> OperatingPoint:
        """The operating point with the same given threshold at all stages."""
        return self.at((threshold,) * (len(self.table.stages) - 1), "fixed", threshold)

    def at(
        self, thresholds: Sequence[float] | np.ndarray, kind: str, target: float | None, rule: Rule | None = None
    ) -> OperatingPoint:
        """The operating point with the given raw thresholds (of a rule: default the chooser's), on these rows."""
        chosen = (rule or self.rule).at(thresholds)
        taken = chosen.taken(self.table)
        quality = float(self.measured.value(taken.pick(self.statistics).sum(axis=0)))
        return self._promised(chosen, kind, target, quality, float(taken.macs.mean()))

    def _point(self, index: int, kind: str, target: float | None, **more: Any) -> OperatingPoint:
        """The operating point at a point of the curve."""
        chosen = self.rule.turned(self.curve.dial[index], len(self.table.stages), self.curve.quantiles)
        return self._promised(chosen, kind, target, float(self.quality[index]), float(self.macs[index]), **more)

    def _promised(
        self, chosen: Rule, kind: str, target: float | None, quality: float, macs: float, **more: Any
    ) -> OperatingPoint:
        best = float(self.quality[-1])
        kept = quality / best if best > 0 else None
        return OperatingPoint(chosen, Promise(kind, target, quality, kept, macs, **more))


Recipe = Callable[[Chooser], OperatingPoint]


def folds_of(table: StageTable, folds: int) -> np.ndarray:
    """Fold of each row ``(N,)`` by a hash of its group or, without groups, its ``sample_id``: the same in every run."""
    keys, inverse = (table.sample_id, None) if table.group is None else np.unique(table.group, return_inverse=True)
    part = np.empty(len(keys), np.min_scalar_type(folds))
    for begin in range(0, len(keys), AT_ONCE):
        digests = (blake2b(str(key).encode(), digest_size=8).digest() for key in keys[begin : begin + AT_ONCE].tolist())
        part[begin : begin + AT_ONCE] = np.frombuffer(b"".join(digests), "<u8") % folds
    return part if inverse is None else part[inverse]


def crossfit(
    table: StageTable, folds: int, wanted: Mapping[Key, tuple[Rule, Recipe]], partial: bool = False
) -> dict[Key, tuple[Taken, tuple[OperatingPoint, ...]]]:
    """Choose on all folds but one and apply to that one, in turn; one fold's rows are held at a time.

    Args:
        table: rows of one split.
        folds: K.
        wanted: rules, and operating points of a chooser.
        partial: whether too few rows (or groups) are no error; then nothing is chosen.

    Returns:
        For each that is wanted what is done with every row, chosen without it, and the K points.

    Raises:
        ValueError: there are fewer rows (or groups) than folds can be filled with.
    """
    fold = folds_of(table, folds)
    if np.bincount(fold, minlength=folds).min() == 0:
        if partial:
            return {}
        raise ValueError(f"`folds` must leave rows in every fold, but got {folds} for {len(fold)} rows; use fewer.")
    points: dict[Key, list[OperatingPoint]] = {key: [] for key in wanted}
    parts: dict[Key, list[Taken]] = {key: [] for key in wanted}
    for k in range(folds):
        rows = others = chooser = None  # those of the fold before, which are as large, go first
        rows, others = table.fold(fold == k), table.fold(fold != k)
        for key, (rule, choose) in wanted.items():
            if chooser is None or chooser.rule != rule:  # those of one rule come together
                chooser = Chooser(others, rule, chooser)
            points[key].append(choose(chooser))
            # What is done with the fold's rows is kept, their table is not.
            parts[key].append(dataclasses.replace(points[key][-1].rule.taken(rows), table=table))
    return {key: (Taken.joined(table, fold, parts.pop(key)), tuple(points[key])) for key in wanted}


def _cheapest(allowed: np.ndarray, macs: np.ndarray, quality: np.ndarray | None = None) -> int:
    """Index of the cheapest allowed point; of equally cheap ones that of highest quality."""
    best = np.flatnonzero(allowed & (macs <= macs[allowed].min()))
    return int(best[0] if quality is None else best[quality[best].argmax()])
