"""Scores that order the rows alike share what is computed along their curves, and nothing of it changes."""

import numpy as np
import pytest

from dial.report.report import SweepSettings, build_report
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.per_stage import thresholds_between
from dial.tradeoff.rules import Threshold
from tests.stages.population import logits_table
from tests.stages.tables import random_table

SCORES = ("energy", "softmax", "margin")


def scored(rows: int, stages: int, classes: int) -> StageTable:
    """Logits with ties, and their scores."""
    return random_table(rows, stages, classes).with_scores(SCORES)


@pytest.mark.parametrize(("stages", "classes"), [(2, 2), (2, 3), (4, 2)])
def test_a_shared_curve_is_the_curve_of_each_score_alone(stages: int, classes: int) -> None:
    table = scored(300, stages, classes)
    before = None
    for score in SCORES:
        before = chooser = Chooser(table, Threshold(score), before)
        alone = Chooser(table, Threshold(score))
        for name in ("dial", "macs", "early", "shares"):
            np.testing.assert_array_equal(getattr(chooser.curve, name), getattr(alone.curve, name))
        for name, quality in alone.curve.quality.items():
            np.testing.assert_array_equal(chooser.curve.quality[name], quality)
        for target in (0.99, 0.9):
            assert chooser.expected(target) == alone.expected(target)
            assert chooser.confident(target) == alone.confident(target)


def test_scores_of_two_classes_are_one_order_and_energy_is_another() -> None:
    table = scored(300, 2, 2)
    energy, softmax = (Chooser(table, Threshold(score)) for score in ("energy", "softmax"))
    margin = Chooser(table, Threshold("margin"), softmax)
    assert margin.curve.along is softmax.curve.along and margin.before is None
    assert softmax.curve.like(energy.curve) is softmax.curve
    assert margin.curve.like(Chooser(scored(300, 2, 2), Threshold("softmax")).curve) is margin.curve  # another table


def test_thresholds_between_rows_keep_them_apart() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3)).round(2)
    for thresholds in ([-0.5, 0.005, 1.0], [-np.inf, np.inf, 0.0]):
        stays = np.exp(values) >= np.exp(thresholds)
        found = thresholds_between(values, stays)
        assert found is not None
        np.testing.assert_array_equal(values >= found, stays)
    assert thresholds_between(values, rng.random((200, 3)) < 0.5) is None


def test_points_of_one_order_stay_on_the_same_rows_per_stage() -> None:
    table = logits_table(400, 0, splits=("test",), strengths=(0.8, 1.2, 2.5)).with_scores(SCORES)
    settings = SweepSettings(targets=(0.95,), scores=("softmax", "margin"), bootstrap=100, calibration="crossfit")
    report = build_report(table, settings)
    (split,) = report.results.splits.values()
    points = [split.select(score=score, kind="per_stage", target=0.95)[0] for score in ("softmax", "margin")]
    assert points[0].calibration == points[1].calibration
    assert points[0].thresholds != points[1].thresholds
