import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import norm, poisson

from dial.stages.metrics.metrics import METRICS, evaluate
from dial.stages.task import UNREAD
from dial.tradeoff import bounds, calibration
from dial.tradeoff.bounds import Margins, lower_bound, rows_needed, worst_losses
from dial.tradeoff.calibration import FIRST_TESTED, folds_of
from dial.tradeoff.events import replay
from dial.tradeoff.levels import Levels
from dial.tradeoff.per_stage import per_stage_thresholds
from tests.stages.population import Population, logits_table, table_of
from tests.tradeoff.choosing import choose, chooser_of, crossfitted

TARGETS = (1.0, 0.99, 0.95, 0.9)


def naive_points(table, score, metric):
    """(threshold, quality, cost, stages) for thresholds below, between and above all scores, by loops; two stages."""
    values = table.scores[score][:, 0]
    points = []
    for threshold in [-np.inf, *sorted(set(values.tolist()))[1:], np.inf]:
        stages = [0 if value >= threshold else 1 for value in values]
        answers = np.array([table.predictions[i, s] for i, s in enumerate(stages)])
        cost = sum(table.macs[i, s] for i, s in enumerate(stages)) / len(stages)
        if threshold == np.inf:  # the Super alone: the Swift does not run
            cost = sum(table.macs_reference) / len(stages)
        points.append((threshold, METRICS[metric].evaluate(table.label, answers, 2), cost, np.array(stages)))
    return points


@pytest.mark.parametrize("metric", ["accuracy", "f1", "mcc", "macro_f1"])
def test_expected_is_the_cheapest_point_that_keeps_the_target(metric):
    table = logits_table(120, seed=4, splits=("calibration",), metrics=(metric,))
    points = naive_points(table, "energy", metric)
    for target in TARGETS:
        wanted = min(cost for _, quality, cost, _ in points if quality >= target * points[-1][1] - 1e-12)
        point = choose(table, "energy", target)
        assert point.promise.macs == pytest.approx(wanted)
        assert point.promise.quality >= target * points[-1][1] - 1e-12
        stages = point.rule.replay(table)
        paid = table.macs_reference if point.rule.only_super else table.macs[np.arange(120), stages]
        assert paid.mean() == pytest.approx(point.promise.macs)


def naive_bound(table, stages, target, metric, confidence=0.9):
    """Lower bound for accuracy or F1 from row-wise influences, written out by hand."""
    n = len(stages)
    x = np.array([table.predictions[i, s] for i, s in enumerate(stages)])
    y, label = table.predictions[:, -1], table.label
    if metric == "accuracy":
        influence = [(int(x[i] == label[i]) - target * int(y[i] == label[i])) / n for i in range(n)]
        margin, loss = sum(influence), 1 / n
    else:

        def parts(answers):
            hits = sum(int(a == 1 and b == 1) for a, b in zip(answers, label, strict=True))
            total = sum(answers) + sum(label)
            return 2 * hits / total, total

        f_x, total_x = parts(x)
        f_y, total_y = parts(y)
        margin = f_x - target * f_y
        one = [(2 * (x[i] == 1 and label[i] == 1) - f_x * (x[i] + label[i])) / total_x for i in range(n)]
        two = [(2 * (y[i] == 1 and label[i] == 1) - f_y * (y[i] + label[i])) / total_y for i in range(n)]
        influence = [a - target * b for a, b in zip(one, two, strict=True)]
        loss = max((2 - f_x) / total_x, f_x / total_x)  # a positive missed, a negative called positive
    mean = sum(influence) / n
    variance = sum((d - mean) ** 2 for d in influence)
    z = norm.ppf(confidence)
    return margin - (z * z + 2) / 3 * loss - z * (variance + loss * loss) ** 0.5


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
@pytest.mark.parametrize("target", [0.97, 0.9, 0.8])
def test_confident_walks_down_from_the_first_point_until_the_first_failure(metric, target):
    table = logits_table(250, seed=5, splits=("calibration",), metrics=(metric,))
    points = naive_points(table, "softmax", metric)
    taken, shares = points[-1], []
    for point in reversed(points[:-1]):
        early = (point[3] == 0).mean()
        if early < FIRST_TESTED or point[2] > points[-1][2]:
            continue
        if naive_bound(table, point[3], target, metric) < 0:
            break
        shares.append(early)
        taken = min(taken, point, key=lambda p: p[2])
    chosen = choose(table, "softmax", target, "confident")
    assert chosen.promise.macs == pytest.approx(taken[2])
    assert (chosen.rule.replay(table) == taken[3]).all()
    assert chosen.promise.certified == ((min(shares), max(shares)) if shares else None)


def test_a_later_point_that_would_pass_does_not_count_after_a_failure():
    # Surest first the Swift loses 30 rows in a row, then wins 60: only far from the Super would the bound hold.
    right = np.ones((400, 2), dtype=bool)
    right[:30, 0] = False
    right[30:90, 1] = False
    table = table_of(np.linspace(1, 0, 400), right)
    assert chooser_of(table, "softmax").expected(0.95).promise.macs == pytest.approx(
        1.0
    )  # all rows stay: more right than the Super
    point = choose(table, "softmax", 0.95, "confident")
    assert point.rule.only_super and point.promise.certified is None  # the 60 wins farther on count for nothing


@pytest.mark.parametrize(
    ("population", "rows", "target"),
    [
        (Population(0.3, 0.05, 0.6, 3), 300, 0.98),
        (Population(0.3, 0.0, 0.6, 3), 150, 0.95),
        (Population(0.02, 0.0, 0.9, 0), 277, 0.99),  # many samples show no difference at all
        (Population(0.02, 0.0, 0.9, 0), 500, 0.99),
        (Population(0.4, 0.1, 0.5, 8), 500, 0.98),
    ],
)
def test_confident_holds_on_fresh_rows_in_nine_of_ten_samples(population, rows, target):
    rng = np.random.default_rng(7)
    confident = expected = saved = 0
    repeats = 300
    for _ in range(repeats):
        score, right = population.sample(rows, rng)
        chooser = chooser_of(table_of(score, right, rng=rng), "softmax")
        points = chooser.confident(target), chooser.expected(target)
        kept = [population.margin(point.rule.thresholds[0], target) >= 0 for point in points]
        confident, expected, saved = confident + kept[0], expected + kept[1], saved + (not points[0].rule.only_super)
    assert confident / repeats >= 0.9 - 2 * (0.9 * 0.1 / repeats) ** 0.5
    assert 0.3 < expected / repeats < 0.7  # about half, as the report says
    assert saved / repeats > 0.5  # and not by never saving anything


def test_confident_holds_for_mcc_with_rare_positives():
    rng, population, target = np.random.default_rng(8), Population(0.3, 0.05, 0.6, 3), 0.9
    score, right = population.sample(400_000, rng)
    whole = chooser_of(table_of(score, right, metric="mcc", positives=0.25, rng=rng), "softmax")
    held = []
    for _ in range(200):
        score, right = population.sample(500, rng)
        point = chooser_of(table_of(score, right, metric="mcc", positives=0.25, rng=rng), "softmax").confident(target)
        true = whole.quality[np.searchsorted(np.unique(whole.curve.events.dial), point.rule.thresholds[0])]
        held.append(true >= target * whole.quality[-1])
    assert np.mean(held) >= 0.9 - 2 * (0.9 * 0.1 / 200) ** 0.5


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_bound_is_exact_enough_for_every_number_of_rare_losses_and_wins(confidence):
    counts = np.arange(150)
    for wins in (0.0, 0.5, 3.0, 20.0):
        for slack in (
            0.3,
            1.0,
            2.3,
            2.5,
            4.0,
            8.0,
            25.0,
        ):  # true margin just below zero: slack rows are lost on average
            margin = (counts[:, None] - counts[None, :] + slack) / 1000
            variance = (counts[:, None] + counts[None, :]) / 1000**2
            passes = lower_bound(margin, variance, 1 / 1000, confidence) >= 0
            chance = (poisson.pmf(counts, wins)[:, None] * poisson.pmf(counts, wins + slack)[None, :] * passes).sum()
            assert chance <= 1 - confidence + 1e-9


def test_rows_needed_is_the_first_size_that_passes():
    for margin, spread, unit in ((0.01, 0.0, 1.0), (0.02, 0.05, 1.0), (0.004, 0.1, 2.0)):
        needed = rows_needed(margin, spread / 300, unit / 300, 300, 0.9)
        assert needed is not None

        def bound(n, margin=margin, spread=spread, unit=unit):
            return lower_bound(np.array([margin]), np.array([spread / n]), unit / n, 0.9)[0]

        assert bound(needed) >= -1e-12
        assert bound(needed - 1) < 0
    assert rows_needed(0.0, 0.1, 0.01, 300, 0.9) is None


def test_where_only_the_super_qualifies_the_rows_needed_are_told_and_suffice():
    rng = np.random.default_rng(3)
    right = np.ones((100, 2), dtype=bool)
    right[:12] = False
    point = choose(table_of(rng.random(100), right), "softmax", 0.99, "confident")
    assert point.rule.only_super
    assert point.promise.rows_needed is not None
    assert str(point.promise.rows_needed) in point.promise.note
    copies = -(-point.promise.rows_needed // 100)
    more = np.repeat(right, copies, axis=0)
    assert not choose(table_of(rng.random(len(more)), more), "softmax", 0.99, "confident").rule.only_super
    worse = choose(table_of(np.linspace(1, 0, 100), right), "softmax", 1.0, "confident")  # the surest rows are lost
    assert worse.promise.rows_needed is None and "keeps less than the target on these rows" in worse.promise.note


def test_margins_row_by_row_equal_those_from_moments(monkeypatch):
    monkeypatch.setattr(bounds, "GRID", 50)
    table = logits_table(
        200, seed=2, splits=("calibration",), strengths=(1.0, 1.6, 2.5), classes=3, metrics=("macro_f1",)
    )
    chooser = chooser_of(table, "margin")
    fast = Margins(chooser.curve, chooser.statistics, chooser.measured)
    monkeypatch.setattr(bounds, "MANY_SUMS", 0)
    slow = Margins(chooser.curve, chooser.statistics, chooser.measured)
    points = slow.at(0.97)[0]
    assert len(points) < len(chooser.curve.applied) == len(fast.points)
    for one, two in zip(fast.at(0.97)[1:], slow.at(0.97)[1:], strict=True):
        np.testing.assert_allclose(one[points], two, rtol=1e-9, atol=1e-12)
    assert chooser.confident(0.9).promise.quality >= 0.9 * chooser.quality[-1]


@pytest.mark.parametrize("grouped", [False, True])
def test_margins_on_a_grid_of_very_many_points_are_those_of_its_points(monkeypatch, grouped):
    table = logits_table(200, seed=2, splits=("calibration",), strengths=(1.0, 1.6, 2.5), metrics=("f1",))
    table = dataclasses.replace(table, group=np.arange(200) // 3) if grouped else table
    chooser = chooser_of(table, "margin")
    every = Margins(chooser.curve, chooser.statistics, chooser.measured).at(0.97)
    monkeypatch.setattr(bounds, "MANY_POINTS", 80)
    points, *some = Margins(chooser.curve, chooser.statistics, chooser.measured).at(0.97)
    assert len(points) == 20 and points[0] == 0 and points[-1] == len(chooser.curve) - 1
    for one, two in zip(every[1:], some, strict=True):
        np.testing.assert_allclose(one[points], two, rtol=1e-9, atol=1e-12)


def test_worst_losses_turn_a_right_row_wrong():
    changes = worst_losses(METRICS["f1"], np.array([0, 1, 1]), 2)
    assert sorted(changes.tolist()) == [[-1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]
    assert len(worst_losses(METRICS["accuracy"], np.array([0, 2]), 3)) == 4  # class 1 has no row to lose
    unread = np.array([0, UNREAD, 0])  # of a Super that writes, taken for right
    assert len(worst_losses(METRICS["agreement"], unread, 3)) == 2


def test_budget_takes_the_best_affordable_point_and_refuses_less_than_the_cheapest():
    table = logits_table(150, seed=6, splits=("calibration",))
    chooser = chooser_of(table, "softmax")
    budget = float(table.macs.mean())
    affordable = [(q, -c) for _, q, c, _ in naive_points(table, "softmax", "accuracy") if c <= budget]
    point = chooser.budget(budget)
    assert (point.promise.quality, -point.promise.macs) == pytest.approx(max(affordable))
    with pytest.raises(ValueError, match=r"`budgets` must lie in \["):
        chooser.budget(float(table.macs[:, 0].mean()) * 0.5)


def test_crossing_is_a_point_or_a_reason():
    rng = np.random.default_rng(0)
    right = np.stack([rng.random(2000) < 0.7, np.ones(2000, dtype=bool)], axis=1)
    score = rng.normal(np.where(right[:, 0], 3.0, 0.0), 1.0)
    point = chooser_of(table_of(score, right), "softmax").crossing()
    assert not isinstance(point, str)
    assert point.rule.thresholds[0] == pytest.approx(1.5, abs=0.25)
    reason = chooser_of(table_of(-score, right), "softmax").crossing()
    assert reason == "s0: none"


@pytest.mark.parametrize("rule", ["threshold", "patience"])
def test_shared_dial_replays_from_raw_thresholds(rule):
    table = logits_table(200, seed=9, splits=("calibration",), strengths=(0.8, 1.2, 1.8, 2.6), classes=3)
    chooser = chooser_of(table, "energy", rule)
    for target in TARGETS:
        point = chooser.expected(target)
        stages = point.rule.replay(table)
        assert len(point.rule.thresholds) == 3
        counted = [t for t in point.rule.thresholds if np.isfinite(t)]
        assert rule == "threshold" or counted == [round(t) for t in counted]  # numbers of agreements
        assert table.macs[np.arange(200), stages].mean() == pytest.approx(point.promise.macs)
        assert (table.predictions[np.arange(200), stages] == table.label).mean() == pytest.approx(point.promise.quality)


def exhaustive(table, score, least):
    """Cheapest cost over all pairs of thresholds of three stages."""
    values = [np.append(np.unique(table.scores[score][:, s]), np.inf) for s in range(2)]
    rows, best = np.arange(len(table)), np.inf
    for pair in itertools.product(*values):
        stages = replay(table.scores[score], np.array(pair))
        if (table.predictions[rows, stages] == table.label).mean() >= least - 1e-12:
            best = min(best, table.macs[rows, stages].mean())
    return best


def test_one_threshold_per_stage_comes_close_to_exhaustive_search():
    ratios, better = [], 0
    for seed in range(6):
        table = logits_table(70, seed=seed, splits=("calibration",), strengths=(0.9, 1.5, 2.5))
        chooser = chooser_of(table, "softmax")
        for target in (1.0, 0.97):
            shared, found = chooser.expected(target), per_stage_thresholds(chooser, target)
            reference = exhaustive(table, "softmax", target * chooser.quality[-1])
            assert found.rule.name == "per_stage"
            assert found.promise.quality >= target * chooser.quality[-1] - 1e-12
            assert reference * (1 - 1e-9) <= found.promise.macs <= shared.promise.macs * (1 + 1e-9)
            ratios.append(found.promise.macs / reference)
            better += found.promise.macs < 0.99 * shared.promise.macs
    assert np.mean(ratios) < 1.03
    assert np.mean(np.array(ratios) < 1.001) >= 0.75
    assert better >= 6


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_a_search_on_some_of_many_rows_holds_on_all_and_costs_as_little(monkeypatch, metric):
    table = logits_table(9000, seed=4, splits=("calibration",), strengths=(0.7, 1.1, 1.6, 2.5), metrics=(metric,))
    for target in (0.99, 0.95):
        chooser = chooser_of(table, "softmax")
        some = per_stage_thresholds(chooser, target)
        with monkeypatch.context() as patch:
            patch.setattr(calibration, "SEARCHED", len(table))
            every = per_stage_thresholds(chooser_of(table, "softmax"), target)
        assert some.promise.macs < 1.05 * every.promise.macs
        assert some.promise.macs < 0.99 * chooser.expected(target).promise.macs
        stages = replay(table.scores["softmax"], np.array(some.rule.thresholds))
        rows = np.arange(len(table))
        kept = evaluate(metric, table.label, table.predictions[rows, stages])
        assert kept >= target * evaluate(metric, table.label, table.predictions[:, -1]) - 1e-12
        assert some.promise.macs == pytest.approx(table.macs[rows, stages].mean())


def test_levels_are_counts_of_reached_thresholds():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, size=(60, 3)) / 8
    nothing = np.zeros((60, 3))
    for most in (60, 20):
        levels = Levels.of(scores, np.arange(60), nothing, nothing[:, :, None], most)
        assert len(levels.drawn) == most
        for stage, (thresholds, reached) in enumerate(zip(levels.thresholds, levels.reached, strict=True)):
            assert set(levels.values[stage].tolist()) == set(scores[levels.drawn, stage].tolist())
            for level, threshold in enumerate(thresholds):
                assert [r > level for r in reached] == [score >= threshold for score in scores[:, stage]]
        # Under a threshold of one's own the drawn rows stay as they do at its level.
        for own in ((0.3, 0.51), (-np.inf, np.inf), (0.125, 2.0)):
            at = [t[level] for t, level in zip(levels.thresholds, levels.at(own), strict=True)]
            drawn = scores[levels.drawn]
            assert (replay(drawn, np.array(at)) == replay(drawn, np.array(own))).all()


def test_crossfit_never_lets_a_row_choose_for_itself():
    table = logits_table(60, seed=1, splits=("test",))
    fold = folds_of(table, 4)
    assert set(fold.tolist()) == {0, 1, 2, 3}
    taken, points = crossfitted(table, "softmax", 4, lambda chooser: chooser.expected(0.97))
    stages = taken.stages
    for k in range(4):
        point = choose(table.take(fold != k), "softmax", 0.97)
        assert point == points[k]
        assert (stages[fold == k] == point.rule.replay(table.take(fold == k))).all()
    # Whatever the labels of one fold are, its own decisions stay as they are.
    label = table.label.copy()
    label[fold == 2] = 1 - label[fold == 2]
    import dataclasses

    changed = dataclasses.replace(table, label=label)
    other, _ = crossfitted(changed, "softmax", 4, lambda chooser: chooser.expected(0.97))
    assert (other.stages[fold == 2] == stages[fold == 2]).all()


def test_folds_follow_the_id_not_the_order_and_keep_groups_together():
    import dataclasses

    table = logits_table(300, seed=1, splits=("test",))
    order = np.random.default_rng(0).permutation(300)
    assert (folds_of(table.take(order), 5) == folds_of(table, 5)[order]).all()
    assert np.bincount(folds_of(table, 5)).min() > 30
    grouped = dataclasses.replace(table, group=np.array([f"g{i // 10}" for i in range(300)]))
    fold = folds_of(grouped, 5).reshape(30, 10)
    assert (fold == fold[:, :1]).all()


def test_unknown_score_and_metric_are_refused():
    table = logits_table(30, seed=1, splits=("test",))
    with pytest.raises(ValueError, match="`score` must be one that the table holds"):
        choose(table, "logit", 0.9)
