"""What is promised holds on fresh rows: with groups, statistics, equal models, hardly any losses, a dear first tier."""

import dataclasses

import numpy as np
import pytest

from dial.report.report import SweepSettings, build_report
from dial.stages.metrics.base import Mean
from dial.stages.metrics.metrics import METRICS, Pearson
from dial.stages.stage import Stage
from dial.tradeoff.bootstrap import bootstrap
from dial.tradeoff.bounds import Margins, clump_of, kept_interval
from dial.tradeoff.calibration import FIRST_TESTED_WITHOUT_SLACK
from dial.tradeoff.per_stage import per_stage_thresholds
from dial.tradeoff.rules import Patience, PerStage
from dial.tradeoff.taken import Taken, metric_of
from tests.stages.population import Population, logits_table, table_of
from tests.stages.tables import regression_table
from tests.tradeoff.choosing import choose, chooser_of, thresholds_at

SLACK = 2 * (0.9 * 0.1 / 300) ** 0.5  # two standard errors of a share of 0.9 in 300 trials


@pytest.mark.parametrize("score", [np.inf, -np.inf, np.nan, 1e300])
def test_scores_without_a_threshold_above_them_are_refused(score):
    right = np.ones((30, 2), dtype=bool)
    values = np.linspace(0, 1, 30)
    values[7] = score
    with pytest.raises(ValueError, match=r"`softmax_s0` must be finite .* for sample_id 7 of split 'test'"):
        table_of(values, right)
    both = np.stack([np.linspace(0, 1, 30), np.full(30, score)], axis=1)
    assert len(table_of(both, right)) == 30  # the last stage decides nothing


def test_the_end_of_the_dial_is_beyond_the_largest_score():
    table = table_of(np.array([1e100, -1e100, 0.5] * 10), np.ones((30, 2), dtype=bool))
    chooser = chooser_of(table, "softmax")
    assert np.isneginf(chooser.curve.dial[0]) and np.isposinf(chooser.curve.dial[-1])
    for point in range(len(chooser.curve)):
        stages = chooser.at(thresholds_at(chooser.curve, point), "fixed", None).rule.replay(table)
        assert (stages == chooser.curve.stages_at(point)).all()


def graded_table(score, right, groups=None):
    """The same with quality from a statistic of the user's, which says how many rows are lost no better."""
    table = table_of(score, right)
    graded = {"em": right.astype(float)}
    return dataclasses.replace(table, statistics=graded, metrics=("em",), group=groups)


@pytest.mark.parametrize(("lost", "target"), [(0.015, 0.99), (0.0015, 0.999), (0.03, 0.98)])
def test_confident_holds_for_a_statistic_with_hardly_any_loss_seen(lost, target):
    """The Swift loses 1.5 times what is allowed; many samples of 100 rows show no loss at all."""
    rng, qualified = np.random.default_rng(0), 0
    for _ in range(300):
        swift = rng.random(100) >= lost
        table = graded_table(rng.random(100), np.stack([swift, np.ones(100, dtype=bool)], axis=1))
        point = chooser_of(table, "softmax").confident(target)
        share = point.rule.taken(table).shares[0]
        qualified += lost * share > 1 - target + 1e-12
    assert qualified / 300 <= 0.1 + SLACK


def test_a_lost_row_of_a_statistic_falls_through_its_whole_range():
    table = graded_table(np.linspace(0, 1, 50), np.ones((50, 2), dtype=bool))
    wide = dataclasses.replace(table, settings={"ranges": {"em": [-3, 1]}})
    for each, size in ((table, 1.0), (wide, 4.0)):
        chooser = chooser_of(each, "softmax")
        *_, loss = Margins(chooser.curve, chooser.statistics, metric_of(each)).at(0.9)
        assert loss == pytest.approx(np.full(51, size / 50))
    assert metric_of(wide).range == (-3.0, 1.0) and Mean("em").range == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"`stat_em_s0` must lie in its range, 0 to 1, but got 5.0 .*--range em LOW"):
        dataclasses.replace(table, statistics={"em": np.full((50, 2), 5.0)})
    with pytest.raises(ValueError, match="`ranges` must be of statistics that the table holds"):
        dataclasses.replace(table, settings={"ranges": {"f": [0, 1]}})


def test_a_lost_number_goes_as_far_as_any_answer_does():
    table = regression_table(80)
    table = dataclasses.replace(table, predictions=np.repeat(table.predictions[:, 1:], 2, axis=1))  # nothing is lost
    chooser = chooser_of(table, "random")
    *_, loss = Margins(chooser.curve, chooser.statistics, chooser.measured).at(0.9)
    ends = [min(table.label.min(), table.predictions.min()), max(table.label.max(), table.predictions.max())]
    metric, worst = Pearson((0.0, 0.0)), 0.0
    gradient = metric.gradient(metric.statistics(table.label, table.predictions[:, -1]).sum(axis=0))
    for x, y in zip(table.label, table.predictions[:, -1], strict=True):
        for end in ends:
            before, after = (np.array([1, x, z, x * x, z * z, x * z]) for z in (y, end))
            worst = max(worst, -float(gradient @ (after - before)))
    assert worst > 0
    assert loss == pytest.approx(np.full(len(chooser.curve), worst))


@pytest.mark.parametrize("size", [1, 5, 20])
@pytest.mark.parametrize("together", [0.0, 1.0])
def test_confident_holds_where_rows_come_in_groups(size, together):
    """Rows of a group are lost together, or not; what is allowed is just not met at the cheapest point."""
    rng, missed, saved = np.random.default_rng(size), 0, 0
    lost, target, rows = 0.05, 0.955, 400
    for _ in range(300):
        groups = np.arange(rows) // size
        draw = rng.random(rows // size)[groups] if together else rng.random(rows)
        swift = draw >= lost
        table = table_of(rng.random(rows), np.stack([swift, np.ones(rows, dtype=bool)], axis=1))
        point = chooser_of(dataclasses.replace(table, group=groups), "softmax").confident(target)
        missed += lost * point.rule.taken(table).shares[0] > 1 - target + 1e-12
        saved += not point.rule.only_super
    assert missed / 300 <= 0.1 + SLACK
    assert size == 20 or saved > 30


@pytest.mark.parametrize("score", ["softmax", "random"])
@pytest.mark.parametrize("many", [False, True])
def test_margins_of_groups_are_those_of_sums_over_each_group(score, many, monkeypatch):
    from dial.tradeoff import bounds

    if many:
        monkeypatch.setattr(bounds, "MANY_SUMS", 0)
    table = logits_table(90, seed=3, splits=("calibration",), strengths=(0.8, 1.6, 2.5), metrics=("f1",))
    groups = np.random.default_rng(0).integers(0, 13, 90)
    table = dataclasses.replace(table, group=groups)
    chooser = chooser_of(table, score)
    margins = Margins(chooser.curve, chooser.statistics, chooser.measured)
    points, margin, variance, loss = margins.at(0.95)
    names = sorted(set(groups.astype(str)))
    for place in np.linspace(0, len(points) - 1, 7).astype(int):
        point = points[place]
        x = np.zeros((90, 3))
        for row in range(90):
            for stage in range(3):
                chance = (
                    chooser.curve.shares[point, stage]
                    if score == "random"
                    else chooser.curve.stages_at(point)[row] == stage
                )
                x[row] += chance * chooser.statistics[row, stage]
        y = chooser.statistics[:, -1]
        here, there = (METRICS["f1"].gradient(each.sum(axis=0)) for each in (x, y))
        sums = [sum(x[i] @ here - 0.95 * (y[i] @ there) for i in range(90) if str(groups[i]) == name) for name in names]
        mean = sum(sums) / len(sums)
        assert variance[place] == pytest.approx(sum((value - mean) ** 2 for value in sums), abs=1e-12)
        f1 = [float(METRICS["f1"].value(each.sum(axis=0))) for each in (x, y)]
        assert margin[place] == pytest.approx(f1[0] - 0.95 * f1[1])
    sizes = [sum(groups.astype(str) == name) for name in names]
    assert clump_of(margins.units) == pytest.approx(sum(n * n for n in sizes) / 90)
    alone = chooser_of(dataclasses.replace(table, group=None), score)
    single = Margins(alone.curve, alone.statistics, alone.measured).at(0.95)[3]
    assert loss == pytest.approx(single * clump_of(margins.units))


def test_two_equal_independent_models_qualify_at_all_of_the_supers_quality():
    """Both are right in 85 % of the rows, the Swift knows when; its surest half is better than the Super there."""
    rng, qualified, missed, repeats = np.random.default_rng(2), 0, 0, 300
    for _ in range(repeats):
        sure = rng.random(600)
        chance = 0.7 + 0.3 * sure  # 0.85 on average
        right = np.stack([rng.random(600) < chance, rng.random(600) < 0.85], axis=1)
        table = table_of(sure, right)
        point = choose(table, "softmax", 1.0, "confident")
        qualified += not point.rule.only_super
        share = 1 - np.clip(point.rule.thresholds[0], 0, 1)  # true gain of the surest share s: ∫ (chance − 0.85)
        missed += share * (0.15 - 0.15 * share) < -1e-12
        if not point.rule.only_super:
            assert point.promise.certified[0] == pytest.approx(FIRST_TESTED_WITHOUT_SLACK, abs=0.01)
            assert point.promise.certified[1] == pytest.approx(point.rule.taken(table).shares[0])
    assert qualified / repeats > 0.5
    assert missed / repeats <= 0.1 + SLACK


def test_all_of_the_supers_quality_is_not_promised_of_a_worse_model():
    """The Swift loses from its surest rows on: only chance lets it qualify."""
    rng, missed = np.random.default_rng(4), 0
    for _ in range(300):
        right = np.stack([rng.random(400) < 0.84, rng.random(400) < 0.85], axis=1)
        missed += not choose(table_of(rng.random(400), right), "softmax", 1.0, "confident").rule.only_super
    assert missed / 300 <= 0.1 + SLACK


def test_a_point_that_costs_more_than_the_super_alone_is_never_taken():
    """The Swift costs nine tenths of the Super and agrees with it: only where it answers nearly all is it worth it."""
    rng = np.random.default_rng(0)
    right = np.ones((400, 2), dtype=bool)
    right[:60, 0] = False
    table = table_of(np.linspace(0, 1, 400), right, costs=(9.0, 19.0), rng=rng)  # the least sure are lost
    assert table.macs_reference[0] == 10.0
    for kind, target in (("expected", 1.0), ("confident", 0.97), ("budget", 10.5)):
        point = choose(table, "softmax", target, kind)
        assert point.promise.macs <= 10.0 + 1e-9
        taken = point.rule.taken(table)
        assert taken.macs.mean() == pytest.approx(point.promise.macs)
        assert point.rule.only_super == (taken.macs == 10.0).all()
    assert choose(table, "softmax", 1.0).promise.macs == 10.0  # 340 of 400 rows stay otherwise: 9 + 0.15 · 10
    report = build_report(
        dataclasses.replace(table, split=np.where(np.arange(400) % 2, "test", "calibration")),
        SweepSettings(scores=("softmax",), bootstrap=100, targets=(1.0,)),
    )
    points = report.summary["splits"]["test"]["points"]
    assert {point["speedup"] >= 1 - 1e-9 for point in points if point["target"] == 1.0} == {True}


def test_a_fold_that_says_super_alone_costs_what_the_super_does():
    table = logits_table(120, seed=7, splits=("test",))
    settings = SweepSettings(scores=("energy",), bootstrap=100, targets=(0.99,), calibration="crossfit", folds=4)
    report = build_report(table, settings)
    (point,) = [
        p for p in report.summary["splits"]["test"]["points"] if p["score"] == "energy" and p["kind"] == "confident"
    ]
    from dial.tradeoff.calibration import folds_of

    fold, spent = folds_of(table, 4), 0.0
    thresholds = [float(each["thresholds"][0]) for each in point["folds"]]
    assert np.inf in thresholds
    for row in range(120):
        threshold = thresholds[fold[row]]
        stage = 0 if table.scores["energy"][row, 0] >= threshold else 1
        spent += table.macs_reference[row] if threshold == np.inf else table.macs[row, stage]
    assert point["macs"] == pytest.approx(spent / 120)


def test_tiers_that_may_answer_no_row_do_not_cost_anything():
    table = logits_table(40, seed=1, splits=("test",), strengths=(0.8, 1.6, 2.5))
    stages = (Stage("a.one", "a", 0), Stage("a.two", "a", 1), Stage("b", "b", 0))
    own = np.diff(np.concatenate([np.zeros((40, 1)), table.macs], axis=1), axis=1)
    table = dataclasses.replace(table, stages=stages, decide_macs=table.macs - 5.0)
    for thresholds, left_out in (
        ([np.inf, np.inf], ("a",)),
        ([np.inf, 0.3], ()),
        ([0.3, np.inf], ()),
    ):
        assert PerStage("softmax", tuple(thresholds)).left_out([stage.tier for stage in stages]) == left_out
        point = chooser_of(table, "softmax").at(thresholds, "fixed", None, PerStage("softmax"))
        wanted = 0.0
        for row in range(40):
            scores = table.scores["softmax"][row]
            stage = next((s for s in range(2) if scores[s] >= thresholds[s]), 2)
            # Passing on costs 5 less than answering; where nothing may stop in `a`, only `b` runs.
            wanted += own[row, 2] + 5 if left_out else table.macs[row, stage]
        assert point.promise.macs == pytest.approx(wanted / 40)
    assert PerStage("softmax", (np.inf, 0.5)).left_out(["a", "b", "c"]) == ("a",)
    assert Patience(thresholds=(np.inf, 0.5)).left_out(["a", "b", "c"]) == ()
    assert Patience(thresholds=(np.inf, np.inf)).left_out(["a", "b", "c"]) == ("a", "b")


@pytest.mark.parametrize("rows", [277, 872])
@pytest.mark.parametrize("kept", [0.98, 0.99, 0.995, 0.999])
def test_the_interval_of_what_is_kept_covers_it_where_hardly_a_row_is_lost(rows, kept):
    """The Super is right in 90 % of the rows; a part of these is lost, and nothing is won."""
    rng, covered, trials = np.random.default_rng(rows), 0, 150
    for _ in range(trials):
        best = rng.random(rows) < 0.9
        own = best & (rng.random(rows) < kept)
        table = table_of(rng.random(rows), np.stack([own, best], axis=1))
        taken = Taken.all_at(table, 0)
        values = bootstrap(table, METRICS["accuracy"], {"own": taken}, {}, (), resamples=200, seed=1).kept("own")
        low, high = kept_interval(table, METRICS["accuracy"], taken, values)
        covered += low <= kept <= high
    assert covered / trials >= 0.93 - 2 * (0.95 * 0.05 / trials) ** 0.5


def test_the_interval_of_what_is_kept_is_no_point_without_a_loss_but_for_the_super_itself():
    table = table_of(np.linspace(0, 1, 277), np.ones((277, 2), dtype=bool))
    for stage, width in ((0, 1.96 + (1.96**2 + 2) / 3), (1, 0)):
        low, high = kept_interval(table, METRICS["accuracy"], Taken.all_at(table, stage), np.ones(100))
        assert high == 1.0 and low == pytest.approx(1 - width / 277, abs=1e-5)


def test_thresholds_of_one_stage_each_are_marked_exploratory():
    table = logits_table(200, seed=2, strengths=(0.8, 1.5, 2.5))
    report = build_report(table, SweepSettings(scores=("softmax",), bootstrap=100, targets=(0.98,)))
    points = report.summary["splits"]["test"]["points"]
    marked = {p["kind"] for p in points if p.get("exploratory")}
    assert marked == {"per_stage"}
    assert "per stage*" in report.text() and "* exploratory" in report.text()
    chooser = chooser_of(table.of_split("calibration"), "softmax")
    assert per_stage_thresholds(chooser, 0.98).promise.macs <= chooser.expected(0.98).promise.macs * (1 + 1e-9)


def test_population_margin_is_that_of_a_large_sample():
    population = Population()
    score, right = population.sample(200_000, np.random.default_rng(0))
    taken = np.where(score >= 0.4, right[:, 0], right[:, 1])
    assert taken.mean() - 0.98 * right[:, 1].mean() == pytest.approx(population.margin(0.4, 0.98), abs=0.003)


def test_own_scores_that_point_the_wrong_way_are_remarked():
    table = logits_table(300, seed=3)
    turned = {
        "softmax": -table.scores["softmax"],
        "doubt": 1 - table.scores["softmax"],
        "sure": table.scores["margin"] ** 2,
    }
    other = np.random.default_rng(0).random((600, 2))
    own = dataclasses.replace(table, scores={**turned, "energy": other, "margin": table.scores["margin"]})
    names = (*turned, "energy", "margin")
    report = build_report(own, SweepSettings(scores=names, bootstrap=100, targets=(0.98,)))
    remarks = {entry["score"]: entry["remarks"] for entry in report.summary["splits"]["test"]["scores"]}
    assert remarks["margin"] == remarks["sure"] == remarks["random"] == []
    for name in ("softmax", "doubt"):
        assert any(
            "contradicts the softmax of `output_swift` (rank correlation -1.00)" in each for each in remarks[name]
        )
        assert any("routes worse than a coin does" in each for each in remarks[name])
    assert remarks["energy"][0].startswith("`energy_swift` is not the energy of `output_swift`")
    assert "`doubt_swift` contradicts" in report.text()


def test_worthless_models_are_called_so_and_keep_nothing():
    rng = np.random.default_rng(0)
    table = logits_table(100, seed=0, metrics=("mcc", "accuracy"))
    outputs = np.stack([rng.random((200, 2)), 2 + rng.random((200, 2))], axis=-1).astype(np.float32)
    label = np.arange(200) % 2
    table = dataclasses.replace(table, outputs=outputs, predictions=outputs.argmax(axis=-1), label=label, scores={})
    report = build_report(table, SweepSettings(scores=("softmax",), bootstrap=100, targets=(0.99, 0.98)))
    result = report.summary["splits"]["test"]
    assert result["remarks"] == [
        "`swift` answers class1 in all 100 rows; it has learnt nothing",
        "`super` answers class1 in all 100 rows; it has learnt nothing",
        "`super` has 0.0 % mcc, no more than one answer for all rows (0.0 %)",
    ]
    for point in result["points"]:
        assert point["held"] is None
        if point["score"] != "oracle" and point["target"] is not None:
            assert point["speedup"] == pytest.approx(1.0)
            assert "nothing to keep" in point.get("note", "nothing to keep")
    assert "it has learnt nothing" in report.text()
    good = build_report(logits_table(100, seed=0), SweepSettings(scores=("softmax",), bootstrap=100))
    assert good.summary["splits"]["test"]["remarks"] == []
