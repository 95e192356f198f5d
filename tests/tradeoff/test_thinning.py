import dataclasses
import itertools

import numpy as np
import pytest

from dial.stages.table import StageTable
from dial.tradeoff.curve import Curve
from dial.tradeoff.rules import curve
from dial.tradeoff.thinning import thin
from tests.stages.tables import random_table, regression_table
from tests.tradeoff.choosing import thresholds_at


def scored_regression(rows: int) -> StageTable:
    own = {"own": np.random.default_rng(0).random((rows, 2))}
    return dataclasses.replace(regression_table(rows), scores=own)


def gap_by_loop(whole: Curve, part: Curve, metric: str) -> float:
    """Largest distance of left-out points from the line between the kept points on their two sides."""
    kept = [int(np.flatnonzero(whole.dial == dial)[0]) for dial in part.dial]
    worst = 0.0
    for a, b in itertools.pairwise(kept):
        for point in range(a + 1, b):
            span = whole.macs[b] - whole.macs[a]
            share = (whole.macs[point] - whole.macs[a]) / span if span else 0.0
            quality = whole.quality[metric]
            worst = max(worst, abs(quality[a] + share * (quality[b] - quality[a]) - quality[point]))
    return worst


def largest_gap(whole: Curve, part: Curve) -> float:
    """Over all metrics that are known at every point."""
    known = [metric for metric, quality in whole.quality.items() if np.isfinite(quality).all()]
    return max(gap_by_loop(whole, part, metric) for metric in known)


@pytest.mark.parametrize("score", ["softmax", "oracle"])
def test_few_points_keep_the_curve(score: str) -> None:
    table = random_table(4000, 2, seed=1, metrics=("accuracy", "mcc")).with_scores(["softmax"])
    whole = curve(table, score)
    small = thin(whole, points=1500, tolerance=1e-3)
    assert len(small) <= 1500
    assert small.dial[0] == -np.inf
    assert small.dial[-1] == np.inf
    gaps = [gap_by_loop(whole, small, metric) for metric in ("accuracy", "mcc")]
    assert max(gaps) <= 1e-3 + 1e-12
    assert max(gaps) > 1e-5  # it did leave out points that matter a little
    assert small.shares.shape == (len(small), 2)
    assert thresholds_at(small, 3)[0] in whole.dial


def test_points_left_over_are_not_used_when_the_tolerance_needs_fewer() -> None:
    table = random_table(4000, 2, seed=1).with_scores(["softmax"])
    assert len(thin(curve(table, "softmax"), 3000, tolerance=2e-2)) < 100


def test_a_curve_with_few_points_comes_back_whole() -> None:
    whole = curve(random_table(50).with_scores(["softmax"]), "softmax")
    assert thin(whole) is whole


def test_where_the_points_do_not_suffice_the_tolerance_gives_way() -> None:
    table = random_table(3000, 2, seed=1).with_scores(["softmax"])
    whole = curve(table, "softmax")
    small = thin(whole, points=100, tolerance=1e-4)
    assert 50 < len(small) <= 100
    assert largest_gap(whole, small) < 0.01


@pytest.mark.parametrize("high", [0.9, 0.1005])
@pytest.mark.parametrize("rises_from", [2000, 10_000], ids=["then dearer", "all of one cost"])
def test_steps_at_equal_cost_are_kept(high: float, rises_from: int) -> None:
    whole = curve(random_table(3000, 2, seed=1).with_scores(["softmax"]), "softmax")
    quality = np.where(np.arange(len(whole)) < 1000, 0.1, high)
    macs = np.maximum(np.arange(len(whole)), rises_from) + 5.0
    step = dataclasses.replace(whole, along={"macs": macs, ("quality", "accuracy"): quality})
    small = thin(step, points=500, tolerance=1e-4)
    assert set(small.quality["accuracy"].tolist()) == {0.1, high}
    assert largest_gap(step, small) <= 1e-4


def test_the_grid_of_spearman_is_kept() -> None:
    whole = curve(scored_regression(3000), "own")
    small = thin(whole, points=2000, tolerance=1e-2)
    assert np.isfinite(small.quality["spearman"]).sum() == 101
    assert len(small) < 1000
    assert gap_by_loop(whole, small, "pearson") <= 1e-2


def test_too_few_points_are_refused() -> None:
    whole = curve(scored_regression(3000), "own")
    with pytest.raises(ValueError, match="`points` must be at least 101 for this curve, but got 50"):
        thin(whole, points=50)
