"""Scores that only a finished answer tells: every tier writes before it decides, and is charged so."""

from __future__ import annotations

import numpy as np
import pytest

from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.tradeoff.rules import Threshold
from tests.tradeoff.choosing import crossfitted

ROWS, TIERS = 30, 3


@pytest.fixture
def parts() -> tuple[np.ndarray, np.ndarray]:
    """What reading and writing cost each tier for each row, ``(N, S)``."""
    random = np.random.default_rng(0)
    return random.integers(1, 50, (ROWS, TIERS)).astype(float), random.integers(1, 90, (ROWS, TIERS)).astype(float)


@pytest.fixture
def table(parts) -> StageTable:
    reading, writing = parts
    random, decide = np.random.default_rng(1), reading.cumsum(axis=1)
    scores = random.normal(size=(ROWS, TIERS))
    return StageTable(
        split=np.full(ROWS, "test"),
        sample_id=np.arange(ROWS),
        label=random.integers(2, size=ROWS),
        stages=tuple(Stage(f"t{i}", f"t{i}") for i in range(TIERS)),
        predictions=random.integers(2, size=(ROWS, TIERS)),
        decide_macs=decide,
        macs=decide + writing,
        macs_reference=reading[:, -1] + writing[:, -1],
        scores={"energy": scores, "decoder_energy": scores},
        label_names=("no", "yes"),
        settings={"late": ["decoder_energy"]},
    )


def spent(parts: tuple[np.ndarray, np.ndarray], stages: np.ndarray, late: bool, left_out: tuple[int, ...] = ()) -> list:
    """Cost of each row that stops at its stage, by a plain loop over the tiers that run."""
    reading, writing = parts
    costs = []
    for row, stage in enumerate(stages):
        cost = 0.0
        for tier in range(stage + 1):
            if tier not in left_out:
                cost += reading[row, tier] + (writing[row, tier] if late or tier == stage else 0)
        costs.append(cost)
    return costs


@pytest.mark.parametrize("score", ["energy", "decoder_energy"])
def test_costs_of_decisions_are_those_of_a_plain_loop(table, parts, score) -> None:
    late = score == "decoder_energy"
    for thresholds in ((0.0, 0.3), (np.inf, 0.0), (-np.inf, 0.0)):
        rule = Threshold(score).at(thresholds)
        stages = rule.replay(table)
        left_out = tuple(tier for tier, threshold in enumerate(thresholds) if threshold == np.inf)
        expected = spent(parts, stages, late, left_out)
        np.testing.assert_allclose(rule.taken(table).macs, expected)
        np.testing.assert_allclose(rule.taken(table).charged(table), expected)
        some = np.arange(0, ROWS, 3)
        np.testing.assert_allclose(rule.taken(table).take(some).macs, np.array(expected)[some])


def test_a_curve_charges_what_the_decisions_cost(table, parts) -> None:
    for score in ("energy", "decoder_energy"):
        rule = Threshold(score)
        curve = rule.curve(table)
        for index in range(1, len(curve.macs) - 1, 5):
            stages = rule.turned(float(curve.dial[index]), TIERS, curve.quantiles).replay(table)
            assert curve.macs[index] == pytest.approx(np.mean(spent(parts, stages, score == "decoder_energy")))


def test_cross_fitted_decisions_cost_the_same(table, parts) -> None:
    taken, _ = crossfitted(table, "decoder_energy", 2, lambda chooser: chooser.fixed(0.1))
    np.testing.assert_allclose(taken.macs, spent(parts, taken.stages, late=True))


def test_other_scores_and_tables_are_left_as_they_are(table) -> None:
    assert table.deciding_by("energy") is table and table.deciding_by("random") is table
    late = table.deciding_by("decoder_energy")
    assert late is table.deciding_by("decoder_energy") and late is not table
