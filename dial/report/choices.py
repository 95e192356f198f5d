"""Every operating point of a sweep, chosen on held-out rows or by cross-fitting, with the stages that it takes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from dial.report.settings import SweepSettings
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser, Recipe, crossfit
from dial.tradeoff.density import Densities
from dial.tradeoff.point import OperatingPoint
from dial.tradeoff.rule import Rule
from dial.tradeoff.rules import charted, searched
from dial.tradeoff.taken import Taken


def key_of(rule: Rule, kind: str, target: float | None) -> str:
    """Name of an operating point among all."""
    return f"{rule.key}/{kind}" if target is None else f"{rule.key}/{kind}/{float(target)!r}"


@dataclass(frozen=True)
class Choice:
    """One operating point and what it does on the reported rows.

    Attributes:
        rule: charted by the sweep, whose dial or whose scores were looked at.
        kind: how the point was chosen.
        point: chosen on all calibration rows (crossfit: on all rows); the one to use from now on.
        taken: what it does with every reported row; with crossfit decided without looking at that row.
        folds: the points of the folds with crossfit, else empty.
    """

    rule: Rule
    kind: str
    point: OperatingPoint
    taken: Taken
    folds: tuple[OperatingPoint, ...] = ()

    @property
    def target(self) -> float | None:
        """What was asked for."""
        return self.point.promise.target

    @property
    def key(self) -> str:
        """Unique name, ``rule/score/kind/target``."""
        return key_of(self.rule, self.kind, self.target)


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
    def rules(self) -> list[Rule]:
        """All that are charted, those by a score first."""
        return charted(self.rows, self.scores)

    @cached_property
    def calibration(self) -> StageTable:
        """Rows that the delivered points are chosen on."""
        return self.rows if self.held_out is None else self.held_out

    @cached_property
    def choosers(self) -> dict[str, Chooser]:
        """One per rule, by its key, on all calibration rows."""
        choosers: dict[str, Chooser] = {}
        for rule in self.rules:
            choosers[rule.key] = Chooser(self.calibration, rule, next(reversed(choosers.values()), None))
        return choosers

    def densities(self) -> dict[str, list[Densities]]:
        """Per score the densities of each stage but the last on the calibration rows; none for regression."""
        if not self._rights or len(self.rows.stages) == 1:
            return {}
        return {each.rule.score: each.crossings for each in self.choosers.values() if each.rule.by_score}

    @property
    def _rights(self) -> bool:
        """Whether answers are right or wrong: classes, and texts beside the last stage's."""
        return self.rows.task.exact or self.rows.task.written

    def crossfitted(
        self, wanted: Mapping[str, tuple[Rule, Recipe]]
    ) -> dict[str, tuple[Taken, tuple[OperatingPoint, ...]]]:
        """What points by these recipes do with the rows, each chosen without its own fold; empty without crossfit."""
        if self.held_out is not None:
            return {}
        return crossfit(self.rows, self.settings.folds, wanted, self.partial)

    def all(self) -> Iterator[Choice]:
        """Every rule, kind and target."""
        wanted = {
            key_of(chooser.rule, kind, target): (chooser.rule, recipe)
            for chooser in self.choosers.values()
            for kind, target, recipe in self._recipes(chooser)
        }
        fitted = self.crossfitted(wanted)  # first, as folds are large, and so are the curves of all rows
        for chooser in self.choosers.values():
            for kind, target, recipe in self._recipes(chooser):
                point, found = recipe(chooser), fitted.pop(key_of(chooser.rule, kind, target), None)
                taken, points = found or (point.rule.taken(self.rows), ())
                yield Choice(chooser.rule, kind, point, taken, points)

    def _recipes(self, chooser: Chooser) -> Iterator[tuple[str, float | None, Recipe]]:
        """Kind, what is asked for, and the function that chooses the point, which folds call again; no curve yet."""
        for target in self.settings.targets:
            yield "expected", target, partial(Chooser.expected, target=target)
            yield "confident", target, partial(Chooser.confident, target=target, confidence=self.settings.confidence)
            for name, kind in searched().items():
                if kind.refines(chooser):
                    yield name, target, partial(kind.searched, target=target)
        for budget in self.settings.budgets:
            yield "budget", budget, partial(Chooser.near_budget, macs=budget)  # a fold may be dearer than all rows
        for threshold in map(float, chooser.rule.asked_for(self.settings)):
            yield "fixed", threshold, partial(Chooser.fixed, threshold=threshold)
        if chooser.rule.by_score and self._rights and not isinstance(chooser.crossing_thresholds(), str):
            yield "crossing", None, partial(_crossing, whole=chooser)


def _crossing(chooser: Chooser, whole: Chooser) -> OperatingPoint:
    """The crossing on a fold, or that of all rows where the fold's densities have none or several."""
    point = chooser.crossing()
    point = whole.crossing() if isinstance(point, str) else point
    assert isinstance(point, OperatingPoint)
    return point
