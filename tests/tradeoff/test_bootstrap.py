import dataclasses
import itertools

import numpy as np
import pytest

from dial.stages.metrics.metrics import METRICS
from dial.tradeoff import bootstrap as intervals
from dial.tradeoff.bootstrap import Nodes, bootstrap, percentile_interval, resample_weights
from dial.tradeoff.calibration import choose
from dial.tradeoff.curve import curve, normalised_area
from dial.tradeoff.paths import Path, quality_at, row_statistics
from dial.tradeoff.random_routing import RandomNodes
from dial.tradeoff.taken import Taken
from tests.stages.population import logits_table


def all_weights(rows, resamples, seed):
    return np.concatenate(list(resample_weights(np.arange(rows), resamples, seed)), axis=1)


def test_weights_count_rows_drawn_with_replacement(monkeypatch):
    weights = all_weights(50, 4000, seed=3)
    assert weights.shape == (50, 4000)
    assert (weights.sum(axis=0) == 50).all()
    assert weights.mean(axis=1) == pytest.approx(np.ones(50), abs=0.08)
    assert weights.var(axis=1).mean() == pytest.approx(1 - 1 / 50, rel=0.02)
    assert (weights == all_weights(50, 4000, seed=3)).all()
    monkeypatch.setattr(intervals, "CHUNK", 500)
    blocks = list(resample_weights(np.arange(50), 25, seed=3))
    assert [block.shape for block in blocks] == [(50, 10), (50, 10), (50, 5)]


def test_rows_of_a_group_are_drawn_together():
    units = np.array(["b", "a", "b", "c", "a", "a"])
    weights = np.concatenate(list(resample_weights(units, 300, seed=0)), axis=1)
    assert (weights[0] == weights[2]).all()
    assert (weights[1] == weights[4]).all()
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()


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
    decisions = {"point": point.stages(table)}
    path, oracle = Path.of(table, "softmax"), Path.of(table, "", "oracle")
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
            stages = path.stages(p)[rows]
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
    for key, path in {
        "softmax": Path.of(table, "softmax"),
        "random": Path.of(table, "random"),
        "oracle": Path.of(table, "", "oracle"),
    }.items():
        nodes = (RandomNodes if key == "random" else Nodes)(path, statistics)
        quality, macs = nodes.evaluate(METRICS["accuracy"], ones)
        points = getattr(nodes, "points", slice(None))
        np.testing.assert_allclose(quality[:, 0], curve(table, key).quality["accuracy"][points])
        areas[key] = np.trapezoid(quality[:, 0], macs[:, 0])
    exact = normalised_area(curve(table, "softmax"), curve(table, "random"), curve(table, "oracle"))
    assert (areas["softmax"] - areas["random"]) / (areas["oracle"] - areas["random"]) == pytest.approx(exact)


def test_nodes_are_far_fewer_than_points():
    table = logits_table(2000, seed=8, splits=("test",))
    nodes = Nodes(Path.of(table, "softmax"), row_statistics(table, METRICS["accuracy"]))
    assert len(nodes.points) < 0.5 * len(Path.of(table, "softmax").applied)


def test_differences_are_paired():
    table = logits_table(400, seed=2, splits=("test",))
    decisions = {name: choose(table, name, 0.97).taken(table) for name in ("energy", "softmax")}
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
    truth = whole.macs_reference.mean() / whole.macs[np.arange(20_000), point.stages(whole)].mean()
    rng, covered = np.random.default_rng(0), 0
    for _ in range(150):
        table = whole.take(rng.integers(0, 20_000, 200))
        got = bootstrap(table, METRICS["accuracy"], {"point": point.taken(table)}, {}, (), resamples=200, seed=1)
        low, high = percentile_interval(got.speedup("point"))
        covered += low <= truth <= high
    assert 0.89 <= covered / 150 <= 0.99


def test_scores_that_route_alike_are_computed_once_and_share_their_values():
    table = logits_table(200, seed=4, splits=("test",))
    paths = {name: Path.of(table, name) for name in ("softmax", "margin", "entropy", "energy")}
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
        name: Path.of(same, name, rule)
        for name, rule in (("random", "threshold"), ("oracle", "oracle"), ("softmax", "threshold"))
    }
    got = bootstrap(same, METRICS["accuracy"], {}, paths, (), resamples=10, seed=0)
    assert np.isnan(got.normalised_area("softmax")).all()


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
