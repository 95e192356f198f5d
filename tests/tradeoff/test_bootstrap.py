import dataclasses
import itertools

import numpy as np
import pytest

from dial.stages.metrics.metrics import METRICS
from dial.tradeoff import bootstrap as intervals
from dial.tradeoff.area import normalised_area
from dial.tradeoff.bootstrap import bootstrap, drawn_units, percentile_interval, resample_weights
from dial.tradeoff.rules import curve
from dial.tradeoff.taken import Taken, quality_at, row_statistics
from tests.stages.population import logits_table
from tests.tradeoff.choosing import choose


def all_weights(rows, resamples, seed):
    return np.concatenate(list(resample_weights(rows, resamples, seed)), axis=1)


def test_weights_count_rows_drawn_with_replacement(monkeypatch):
    weights = all_weights(50, 4000, seed=3)
    assert weights.shape == (50, 4000)
    assert (weights.sum(axis=0) == 50).all()
    assert weights.mean(axis=1) == pytest.approx(np.ones(50), abs=0.08)
    assert weights.var(axis=1).mean() == pytest.approx(1 - 1 / 50, rel=0.02)
    assert (weights == all_weights(50, 4000, seed=3)).all()
    monkeypatch.setattr(intervals, "CHUNK", 500)
    blocks = list(resample_weights(50, 25, seed=3))
    assert [block.shape for block in blocks] == [(50, 10), (50, 10), (50, 5)]


def test_rows_of_a_group_are_drawn_together():
    table = logits_table(6, seed=0, splits=("test",))
    table = dataclasses.replace(table, group=np.array(["b", "a", "b", "c", "a", "a"]))
    assert drawn_units(table).tolist() == [1, 0, 1, 2, 0, 0]


def test_of_very_many_rows_random_blocks_of_equal_size_are_drawn(monkeypatch):
    table = logits_table(1000, seed=0, splits=("test",))
    assert drawn_units(table).tolist() == list(range(1000))
    monkeypatch.setattr(intervals, "BLOCKS", 64)
    units = drawn_units(table)
    assert set(np.bincount(units)) == {1000 // 64, 1000 // 64 + 1}
    assert (np.diff(units) > 0).mean() < 0.6  # not one stretch of rows after the other
    assert (units == drawn_units(table)).all()
    grouped = drawn_units(dataclasses.replace(table, group=np.arange(1000) // 5))
    assert all(len(set(grouped[start : start + 5])) == 1 for start in range(0, 1000, 5))
    assert len(set(grouped)) == 64


def test_blocks_and_nodes_give_the_intervals_of_rows_and_all_points(monkeypatch):
    metric = "mcc"
    table = logits_table(2500, seed=3, splits=("test",), metrics=(metric,))
    decisions = {"point": choose(table, "softmax", 0.97).rule.taken(table)}
    paths = {name: curve(table, name) for name in ("softmax", "random", "oracle")}

    def spread(values):
        return np.quantile(values, [0.025, 0.5, 0.975], axis=-1)

    found = []
    for blocks in (8192, 800):
        monkeypatch.setattr(intervals, "BLOCKS", blocks)
        monkeypatch.setattr(intervals, "MANY_POINTS", 2 * blocks)
        got = bootstrap(table, METRICS[metric], decisions, paths, (0.99, 0.95), resamples=1000, seed=blocks)
        areas = [got.normalised_area("softmax"), got.areas["oracle"]]
        found.append([spread(v) for v in (got.speedup("point"), got.kept("point"), *got.chosen["softmax"], *areas)])
    for rows, together in zip(*found, strict=True):
        width = rows[2] - rows[0]
        np.testing.assert_allclose(together, rows, atol=0.12 * width)


@pytest.mark.parametrize("name", ["softmax", "random"])
def test_given_points_under_weights_of_blocks_are_those_of_repeated_rows(name):
    table = logits_table(60, seed=8, splits=("test",), strengths=(0.8, 1.5, 2.5))
    whole, units = curve(table, name), np.arange(60) % 7
    statistics, weights = row_statistics(table, METRICS["accuracy"]), np.array([[2, 0, 1, 3, 0, 0, 1]]).T
    points = np.array([0, 5, len(whole) // 2, len(whole) - 1])
    quality, macs = whole.reweighted(statistics, units, points)(METRICS["accuracy"], weights)
    rows = np.repeat(np.arange(60), weights[units, 0])
    for position, point in enumerate(points):
        right = whole.picked((table.predictions == table.label[:, None]).astype(float), point)[rows]
        assert quality[position, 0] == pytest.approx(right.mean())
        assert macs[position, 0] == pytest.approx(whole.picked(table.macs, point)[rows].mean())


def test_bootstrap_draws_the_rows_of_the_tables_groups_together():
    table = logits_table(80, seed=3, splits=("test",))
    right = (table.predictions[:, -1] == table.label).astype(float)
    pairs = dataclasses.replace(table, group=np.argsort(np.argsort(right)) // 40)  # the worst half, the best half
    means = [right[pairs.group == half].mean() for half in ("0", "1")]
    got = bootstrap(pairs, METRICS["accuracy"], {}, {}, resamples=60, seed=2).quality["super"]
    assert set(got.round(9)) == {round((a + b) / 2, 9) for a in means for b in means}
    alone = bootstrap(table, METRICS["accuracy"], {}, {}, resamples=60, seed=2).quality["super"]
    assert len(set(alone.round(9))) > 3


@pytest.mark.parametrize("metric", ["accuracy", "f1", "mcc"])
@pytest.mark.parametrize("strengths", [(1.0, 2.5), (0.8, 1.5, 2.5)])
def test_bootstrap_equals_recomputing_everything_on_repeated_rows(metric, strengths):
    table = logits_table(80, seed=3, splits=("test",), strengths=strengths, metrics=(metric,))
    point = choose(table, "softmax", 0.95)
    decisions = {"point": point.rule.replay(table)}
    path, oracle = curve(table, "softmax"), curve(table, "oracle")
    targets = (1.0, 0.95, 0.8)
    paths = {"softmax": path, "oracle": oracle}
    taken = {key: Taken.at(table, stages) for key, stages in decisions.items()}
    got = bootstrap(table, METRICS[metric], taken, paths, targets, resamples=12, seed=5)
    weights = all_weights(80, 12, seed=5).astype(int)
    for b in range(12):
        rows = np.repeat(np.arange(80), weights[:, b])
        again = table.take(rows)
        super_quality = quality_at(again, metric, np.full(80, len(strengths) - 1))
        assert got.quality["super"][b] == pytest.approx(super_quality)
        assert got.quality["point"][b] == pytest.approx(quality_at(again, metric, decisions["point"][rows]))
        assert got.macs["point"][b] == pytest.approx(again.macs[np.arange(80), decisions["point"][rows]].mean())
        assert got.reference[b] == pytest.approx(again.macs_reference.mean())
        # every point of the path in turn, rows sent on by its events
        found = []
        for p in range(len(path.applied)):
            stages = path.stages_at(p)[rows]
            found.append((quality_at(again, metric, stages), again.macs[np.arange(80), stages].mean()))
        for t, target in enumerate(targets):
            earlier = [again.macs[:, s] - again.macs[:, s - 1] for s in range(1, len(strengths))]
            alone = earlier[-1].mean()  # what the Super costs where nobody asks the others first
            cost = min([alone, *(c for q, c in found[:-1] if q >= target * super_quality - 1e-12)])
            assert got.chosen["softmax"][t, b] == pytest.approx(got.reference[b] / cost)
        area = sum((c2 - c1) * (q1 + q2) / 2 for (q1, c1), (q2, c2) in itertools.pairwise(found))
        assert got.areas["softmax"][b] == pytest.approx(area)


def test_normalised_area_of_the_rows_themselves_is_that_of_the_exact_curve():
    table = logits_table(300, seed=8, splits=("test",))
    statistics = row_statistics(table, METRICS["accuracy"])
    ones = np.ones((300, 1))
    areas = {}
    for key in ("softmax", "random", "oracle"):
        whole = curve(table, key)
        quality, macs = whole.reweighted(statistics, np.arange(300))(METRICS["accuracy"], ones)
        places = np.searchsorted(whole.macs, macs[:, 0] - 1e-6)
        np.testing.assert_allclose(macs[:, 0], whole.macs[places])
        np.testing.assert_allclose(quality[:, 0], whole.quality["accuracy"][places])
        areas[key] = np.trapezoid(quality[:, 0], macs[:, 0])
    exact = normalised_area(curve(table, "softmax"), curve(table, "random"), curve(table, "oracle"))
    assert (areas["softmax"] - areas["random"]) / (areas["oracle"] - areas["random"]) == pytest.approx(exact)


def test_points_where_quality_can_change_are_far_fewer():
    table = logits_table(2000, seed=8, splits=("test",))
    whole = curve(table, "softmax")
    evaluate = whole.reweighted(row_statistics(table, METRICS["accuracy"]), np.arange(2000))
    assert len(evaluate(METRICS["accuracy"], np.ones((2000, 1)))[0]) < 0.5 * len(whole.applied)


def test_differences_are_paired():
    table = logits_table(400, seed=2, splits=("test",))
    decisions = {name: choose(table, name, 0.97).rule.taken(table) for name in ("energy", "softmax")}
    got = bootstrap(
        table, METRICS["accuracy"], {**decisions, "twin": decisions["softmax"]}, {}, (), resamples=400, seed=0
    )
    assert (got.speedup("twin") == got.speedup("softmax")).all()
    paired = np.std(got.quality["energy"] - got.quality["softmax"])
    apart = np.hypot(np.std(got.quality["energy"]), np.std(got.quality["softmax"]))
    assert paired < 0.9 * apart


def test_interval_of_a_speed_up_covers_the_truth_in_19_of_20_samples():
    whole = logits_table(20_000, seed=0, splits=("test",))
    point = choose(whole, "softmax", 0.98)
    truth = whole.macs_reference.mean() / whole.macs[np.arange(20_000), point.rule.replay(whole)].mean()
    rng, covered = np.random.default_rng(0), 0
    for _ in range(150):
        table = whole.take(rng.integers(0, 20_000, 200))
        got = bootstrap(table, METRICS["accuracy"], {"point": point.rule.taken(table)}, {}, (), resamples=200, seed=1)
        low, high = percentile_interval(got.speedup("point"))
        covered += low <= truth <= high
    assert 0.89 <= covered / 150 <= 0.99


def test_scores_that_route_alike_are_computed_once_and_share_their_values():
    table = logits_table(200, seed=4, splits=("test",))
    paths = {name: curve(table, name) for name in ("softmax", "margin", "entropy", "energy")}
    got = bootstrap(table, METRICS["accuracy"], {}, paths, (0.98,), resamples=20, seed=0)
    assert np.shares_memory(got.areas["softmax"], got.areas["entropy"])
    assert not np.array_equal(got.areas["softmax"], got.areas["energy"])


def test_percentile_interval_is_none_where_a_value_is_undefined():
    assert percentile_interval(np.array([1.0, np.nan, 2.0])) is None
    assert percentile_interval(np.zeros(0)) is None
    low, high = percentile_interval(np.arange(1001.0))
    assert (low, high) == pytest.approx((25.0, 975.0))


def test_kept_and_normalised_area_are_undefined_without_a_gain():
    table = logits_table(60, seed=1, splits=("test",))
    same = dataclasses.replace(table, predictions=np.repeat(table.predictions[:, :1], 2, axis=1))
    paths = {
        name: curve(same, name, rule)
        for name, rule in (("random", "threshold"), ("oracle", "oracle"), ("softmax", "threshold"))
    }
    got = bootstrap(same, METRICS["accuracy"], {}, paths, (), resamples=10, seed=0)
    assert np.isnan(got.normalised_area("softmax")).all()


def test_where_the_super_is_worth_nothing_a_point_chosen_again_is_the_super_alone():
    """As it is on the rows themselves, so that the interval holds the speed-up that it stands beside."""
    table = logits_table(60, seed=1, splits=("test",))
    wrong = dataclasses.replace(table, predictions=1 - np.repeat(table.label[:, None], 2, axis=1))
    got = bootstrap(wrong, METRICS["accuracy"], {}, {"softmax": curve(wrong, "softmax")}, (0.9,), resamples=10, seed=0)
    assert (got.quality["super"] == 0).all()
    np.testing.assert_allclose(got.chosen["softmax"][0], got.reference / got.macs["super"])


def test_metric_without_sums_is_refused():
    table = logits_table(30, seed=1, splits=("test",))
    regression = dataclasses.replace(
        table,
        label=table.label.astype(float),
        predictions=table.scores["energy"],
        outputs=None,
        metrics=("spearman",),
        label_names=(),
    )
    with pytest.raises(ValueError, match="must start with an additive metric"):
        bootstrap(regression, METRICS["spearman"], {}, {}, (), resamples=10, seed=0)
