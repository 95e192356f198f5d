"""Operating points by the names of scores and rules, as tests choose them."""

import numpy as np

from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser, Recipe, crossfit
from dial.tradeoff.curve import Curve
from dial.tradeoff.events import replay
from dial.tradeoff.patience import agreement
from dial.tradeoff.point import OperatingPoint
from dial.tradeoff.rules import Rule, Threshold, rule_named
from dial.tradeoff.taken import Taken


def chooser_of(table: StageTable, score: str, rule: str = "threshold") -> Chooser:
    """A chooser on the rows of a table."""
    return Chooser(table, rule_named(rule, score))


def choose(table: StageTable, score: str, target: float, kind: str = "expected") -> OperatingPoint:
    """One operating point by a threshold on a score."""
    chooser = chooser_of(table, score)
    ways = {"expected": chooser.expected, "confident": chooser.confident, "budget": chooser.budget}
    return ways[kind](target)


def thresholds_at(curve: Curve, point: int) -> np.ndarray:
    """The raw thresholds of a point of a curve."""
    rule = Threshold(curve.score).turned(curve.dial[point], len(curve.stages), curve.quantiles)
    return np.array(rule.thresholds)


def crossfitted(table: StageTable, score: str, folds: int, choose: Recipe) -> tuple[Taken, tuple[OperatingPoint, ...]]:
    """What is done with every row by a threshold on a score that was chosen without it, and the points of the folds."""
    return crossfit(table, folds, {0: (Threshold(score), choose)})[0]


def replayed(rule: Rule, scores: np.ndarray, predictions: np.ndarray | None = None) -> np.ndarray:
    """The stage ``(N,)`` that the table's replay gives every row: what a router must agree with."""
    values = scores if predictions is None or rule.reads_score else agreement(predictions, rule.tolerance)
    return replay(values, np.array(rule.thresholds))
