"""Random routing is its expectation: against the mean over many draws."""

import numpy as np
import pytest
import scipy.stats

from dial.report.report import SweepSettings, build_report
from dial.stages.metrics.metrics import METRICS
from dial.tradeoff.bootstrap import bootstrap
from dial.tradeoff.events import replay
from dial.tradeoff.random_routing import RandomCurve, stop_chances
from dial.tradeoff.rules import curve
from dial.tradeoff.taken import mean_over_draws, quality_of, row_statistics
from tests.stages.population import logits_table
from tests.stages.tables import regression_table
from tests.tradeoff.choosing import chooser_of


@pytest.mark.parametrize("strengths", [(1.0, 2.5), (0.8, 1.5, 2.5)])
def test_every_point_is_the_mean_over_draws(strengths):
    table = logits_table(60, seed=1, splits=("test",), strengths=strengths)
    result, stages = curve(table, "random"), len(strengths)
    assert len(result) == len(RandomCurve.of(table, "threshold", "random")) == 1001
    rng, rows = np.random.default_rng(0), np.arange(60)
    for point in (0, 250, 700, 1000):
        right, cost, shares = [], [], np.zeros(stages)
        for _ in range(2000):
            taken = replay(rng.random((60, stages)), np.full(stages - 1, result.dial[point]))
            right.append((table.predictions[rows, taken] == table.label).mean())
            cost.append(table.macs[rows, taken].mean())
            shares += np.bincount(taken, minlength=stages) / 60 / 2000
        assert result.quality["accuracy"][point] == pytest.approx(
            np.mean(right), abs=4 * np.std(right) / 2000**0.5 + 1e-9
        )
        assert result.macs[point] == pytest.approx(np.mean(cost), abs=4 * np.std(cost) / 2000**0.5 + 1e-3)
        assert result.shares[point] == pytest.approx(shares, abs=0.01)


def test_two_stages_of_accuracy_are_a_straight_line():
    table = logits_table(80, seed=2, splits=("test",))
    result = curve(table, "random")
    ends = [(table.predictions[:, s] == table.label).mean() for s in (0, 1)]
    share = np.linspace(0, 1, 1001)
    assert result.quality["accuracy"] == pytest.approx(ends[0] + share * (ends[1] - ends[0]))
    assert result.macs == pytest.approx(table.macs[:, 0].mean() + share * (table.macs[:, 1] - table.macs[:, 0]).mean())


def test_stop_chances_multiply_going_on():
    chances = stop_chances([0.2, 0.7, 1.5])
    assert chances == pytest.approx([0.8, 0.2 * 0.3, 0.2 * 0.7 * 0.0, 0.2 * 0.7 * 1.0])
    assert stop_chances([-np.inf, np.inf]).tolist() == [1.0, 0.0, 0.0]
    assert stop_chances([np.inf, np.inf]).tolist() == [0.0, 0.0, 1.0]


def test_the_seed_of_the_draw_changes_nothing_that_is_reported():
    table = logits_table(277, seed=5)
    texts = []
    for seed in (0, 1, 2):
        report = build_report(
            table.with_scores(["random"], seed=seed), SweepSettings(scores=("energy",), bootstrap=100)
        )
        points = [p for p in report.summary["splits"]["test"]["points"] if p["score"] == "random"]
        texts.append(
            [{key: p[key] for key in ("kind", "target", "speedup", "kept", "speedup_interval")} for p in points]
        )
        assert {p["kind"] for p in points} == {"expected", "confident", "in_sample"}
    assert texts[0] == texts[1] == texts[2]


def test_resampling_weights_the_expectation():
    table = logits_table(50, seed=3, splits=("test",), strengths=(0.8, 1.5, 2.5), metrics=("f1",))
    chooser = chooser_of(table, "random")
    point = chooser.expected(0.9)
    taken = point.rule.taken(table)
    got = bootstrap(table, METRICS["f1"], {"p": taken}, {"random": curve(table, "random")}, (0.9,), resamples=5, seed=4)
    from dial.tradeoff.bootstrap import resample_weights

    weights = np.concatenate(list(resample_weights(50, 5, 4)), axis=1)
    chances = stop_chances(point.rule.thresholds)
    statistics = row_statistics(table, METRICS["f1"])
    for b in range(5):
        sums = sum(weights[i, b] * chances[s] * statistics[i, s] for i in range(50) for s in range(3))
        assert got.quality["p"][b] == pytest.approx(float(METRICS["f1"].value(sums)))
        cost = sum(weights[i, b] * chances[s] * table.macs[i, s] for i in range(50) for s in range(3)) / 50
        assert got.macs["p"][b] == pytest.approx(cost)
    assert point.promise.quality == pytest.approx(quality_of(taken))
    assert point.promise.macs == pytest.approx(taken.macs.mean())


def test_a_rank_correlation_is_averaged_over_draws():
    table = regression_table(100)
    ends = [scipy.stats.spearmanr(table.label, table.predictions[:, s]).statistic for s in (0, 1)]
    values = [mean_over_draws(table, METRICS["spearman"], np.array([1 - share, share])) for share in (0.0, 0.5, 1.0)]
    assert values[0] == pytest.approx(ends[0]) and values[2] == pytest.approx(ends[1])
    assert min(ends) < values[1] < max(ends)
    result = curve(table, "random")
    assert np.isfinite(result.quality["spearman"]).sum() == 101
