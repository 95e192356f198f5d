"""Scores that only a finished answer tells: every tier writes before it decides, and is charged so."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.tradeoff.area import normalised_area
from dial.tradeoff.bootstrap import bootstrap, resample_weights
from dial.tradeoff.rules import Oracle, Threshold, curve
from dial.tradeoff.taken import metric_of
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


def area_before(quality: np.ndarray, macs: np.ndarray, end: float) -> float:
    """Under straight lines from point to point, by a plain loop, up to a cost."""
    area = 0.0
    for (q1, c1), (q2, c2) in itertools.pairwise(zip(quality, macs, strict=True)):
        if c1 < end < c2:
            q2, c2 = q1 + (q2 - q1) * (end - c1) / (c2 - c1), end
        area += (q1 + q2) / 2 * (c2 - c1) if c2 <= end else 0.0
    return area


def test_areas_are_compared_at_the_same_costs() -> None:
    """A curve of finished answers ends where all tiers have written, which random routing never pays."""
    random = np.random.default_rng(5)
    rows, right = 60, np.random.default_rng(6).random((60, 2)) < [0.6, 0.9]
    label = random.integers(2, size=rows)
    reading, writing = np.array([10.0, 40.0]), random.integers(5, 20, (rows, 2)).astype(float)
    decide = np.tile(reading.cumsum(), (rows, 1))
    surety = right + random.normal(size=(rows, 2))
    table = StageTable(
        split=np.full(rows, "test"),
        sample_id=np.arange(rows),
        label=label,
        stages=(Stage("swift", "swift"), Stage("super", "super")),
        predictions=np.where(right, label[:, None], 1 - label[:, None]),
        decide_macs=decide,
        macs=decide + writing,
        macs_reference=reading[1] + writing[:, 1],
        scores={"energy": surety, "decoder_energy": surety},
        label_names=("no", "yes"),
        settings={"late": ["decoder_energy"]},
    ).with_scores(["random"])
    names = ("energy", "decoder_energy", "random")
    curves = {name: curve(table, name) for name in names} | {"oracle": Oracle().curve(table)}
    end = curves["random"].macs[-1]
    assert curves["decoder_energy"].macs[-1] > end == pytest.approx(curves["energy"].macs[-1])
    areas = {name: area_before(each.quality["accuracy"], each.macs, end + 1e-9) for name, each in curves.items()}
    for name in ("energy", "decoder_energy"):
        expected = (areas[name] - areas["random"]) / (areas["oracle"] - areas["random"])
        assert normalised_area(curves[name], curves["random"], curves["oracle"]) == pytest.approx(expected)
    early, late = (normalised_area(curves[name], curves["random"], curves["oracle"]) for name in names[:2])
    assert late < early < 1  # the same decisions, and the later one is dearer
    again = bootstrap(table, metric_of(table), {}, curves, resamples=8, seed=3)
    (weights,) = resample_weights(rows, 8, 3)
    for b in range(8):
        drawn = table.take(np.repeat(np.arange(rows), weights[:, b].astype(int)))
        drawn = dataclasses.replace(drawn, sample_id=np.arange(rows))
        lines = [curve(drawn, names[1]), curve(drawn, "random")]
        expected = area_before(lines[0].quality["accuracy"], lines[0].macs, lines[1].macs[-1])
        assert again.areas["decoder_energy"][b] == pytest.approx(expected, rel=1e-9)


def test_cross_fitted_decisions_cost_the_same(table, parts) -> None:
    taken, _ = crossfitted(table, "decoder_energy", 2, lambda chooser: chooser.fixed(0.1))
    np.testing.assert_allclose(taken.macs, spent(parts, taken.stages, late=True))


def test_other_scores_and_tables_are_left_as_they_are(table) -> None:
    assert table.deciding_by("energy") is table and table.deciding_by("random") is table
    late = table.deciding_by("decoder_energy")
    assert late is table.deciding_by("decoder_energy") and late is not table
