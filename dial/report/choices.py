"""Every operating point of a sweep, chosen on held-out rows or by cross-fitting, with the stages that it takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from dial.report.settings import SweepSettings
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser, OperatingPoint, folds_of
from dial.tradeoff.density import Densities
from dial.tradeoff.descent import per_stage_thresholds
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.taken import Taken

Recipe = Callable[[Chooser], OperatingPoint]


def key_of(kind: str, target: float | None) -> str:
    """Name of an operating point among those of one rule and score."""
    return kind if target is None else f"{kind}/{float(target)!r}"


@dataclass(frozen=True)
class Choice:
    """One operating point and what it does on the reported rows.

    Attributes:
        key: unique name, ``rule/score/kind/target``.
        point: chosen on all calibration rows (crossfit: on all rows); the one to use from now on.
        taken: what it does with every reported row; with crossfit decided without looking at that row.
        folds: the points of the folds with crossfit, else empty.
    """

    key: str
    point: OperatingPoint
    taken: Taken
    folds: tuple[OperatingPoint, ...] = ()


@dataclass(frozen=True)
class Choices:
    """Chooses all operating points for one reported split.

    Attributes:
        scores: names of the scores.
        settings: targets, budgets, confidence, folds.
        held_out: calibration rows; None for crossfit.
        rows: reported rows.
        partial: a trial run, where too few rows for folds are no error.
    """

    scores: Sequence[str]
    settings: SweepSettings
    held_out: StageTable | None
    rows: StageTable
    partial: bool = False

    @cached_property
    def rules(self) -> list[tuple[str, str]]:
        """Pairs of rule and score; patience, which reads predictions only, needs more than two stages.

        Numbers never agree exactly: for regression it also needs the table's ``tolerance``.
        """
        pairs = [("threshold", score) for score in self.scores]
        agree = self.rows.task.exact or self.rows.settings.get("tolerance") is not None
        return [*pairs, ("patience", "patience")] if len(self.rows.stages) > 2 and agree else pairs

    @cached_property
    def calibration(self) -> StageTable:
        """Rows that the delivered points are chosen on."""
        return self.rows if self.held_out is None else self.held_out

    @cached_property
    def choosers(self) -> dict[tuple[str, str], Chooser]:
        """One per rule and score, on all calibration rows."""
        return {pair: Chooser(self.calibration, pair[1], pair[0]) for pair in self.rules}

    @cached_property
    def _folds(self) -> list[tuple[np.ndarray, StageTable]]:
        """For each fold its rows as a mask, and the table of the others; empty without crossfit."""
        if self.held_out is not None:
            return []
        fold = folds_of(self.rows, self.settings.folds)
        counts = np.bincount(fold, minlength=self.settings.folds)
        if counts.min() == 0:
            if self.partial:
                return []
            raise ValueError(
                f"`folds` must leave rows in every fold, but got {self.settings.folds} for {len(fold)} rows; use fewer."
            )
        return [(fold == k, self.rows.take(fold != k)) for k in range(self.settings.folds)]

    def quantiles(self, rule: str, score: str) -> Quantiles | None:
        """Scale of the shared dial of more than two stages, from calibration rows."""
        return self.choosers[rule, score].path.quantiles

    def densities(self) -> dict[str, list[Densities]]:
        """Per score the densities of each stage but the last on the calibration rows; none for regression."""
        if not self.rows.task.exact or len(self.rows.stages) == 1:
            return {}
        return {score: self.choosers["threshold", score].crossings for score in self.scores if score != "random"}

    def all(self) -> Iterator[Choice]:
        """Every rule, score, kind and target."""
        for rule, score in self.rules:
            chooser = self.choosers[rule, score]
            others = [(mask, Chooser(table, score, rule)) for mask, table in self._folds]
            for kind, target, recipe in self._recipes(rule, score):
                key = f"{rule}/{score}/{key_of(kind, target)}"
                point = recipe(chooser)
                if not others:
                    yield Choice(key, point, point.taken(self.rows))
                    continue
                points = [recipe(other) for _, other in others]
                parts = [
                    (mask, each.taken(self.rows.take(mask))) for (mask, _), each in zip(others, points, strict=True)
                ]
                yield Choice(key, point, Taken.joined(self.rows, parts), tuple(points))

    def _recipes(self, rule: str, score: str) -> Iterator[tuple[str, float | None, Recipe]]:
        for target in self.settings.targets:
            yield "expected", target, partial(Chooser.expected, target=target)
            yield "confident", target, partial(Chooser.confident, target=target, confidence=self.settings.confidence)
            if len(self.rows.stages) > 2 and rule == "threshold" and score != "random":
                yield "per_stage", target, partial(per_stage_thresholds, target=target)
        for budget in self.settings.budgets:
            yield "budget", budget, partial(Chooser.near_budget, macs=budget)  # a fold may be dearer than all rows
        for patience in self.settings.patience if rule == "patience" else ():
            yield "fixed", float(patience), partial(Chooser.patient, patience=patience)
        if rule == "threshold" and score != "random" and self.rows.task.exact and self._crosses(score):
            yield "crossing", None, partial(_crossing, whole=self.choosers[rule, score])

    def _crosses(self, score: str) -> bool:
        return isinstance(self.choosers["threshold", score].crossing(), OperatingPoint)


def _crossing(chooser: Chooser, whole: Chooser) -> OperatingPoint:
    """The crossing on a fold, or that of all rows where the fold's densities have none or several."""
    found = chooser.crossing()
    if isinstance(found, str):
        found = whole.crossing()
    assert isinstance(found, OperatingPoint)
    return found
