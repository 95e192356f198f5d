"""Curves, points and intervals of free text: every quality is that of the routed texts by sacreBLEU itself."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from dial.stages.metrics.metrics import METRICS, evaluate
from dial.stages.table import StageTable
from dial.tradeoff.bootstrap import bootstrap, resample_weights
from dial.tradeoff.bounds import Margins, kept_interval, lost_row
from dial.tradeoff.calibration import folds_of
from dial.tradeoff.oracle import oracle_events
from dial.tradeoff.rules import Threshold
from dial.tradeoff.taken import Taken, metric_of, quality_of, right_rows, row_gains, units_of
from tests.stages.tables import random_table
from tests.stages.test_text_metrics import streams
from tests.stages.texts import text_table
from tests.tradeoff.choosing import choose, chooser_of, crossfitted

SLACK = 2 * (0.9 * 0.1 / 300) ** 0.5
RATIOS = ("bleu", "chrf", "character_accuracy", "token_accuracy")


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("stages", [2, 3])
def test_every_point_of_a_curve_has_the_bleu_of_its_routed_texts(stages: int, several: bool) -> None:
    table = text_table(110, stages, seed=4, several=several, metrics=("bleu", "chrf"))
    curve = Threshold("energy").curve(table)
    assert len(curve) > 100
    references, rows = streams(table.references.tolist()), np.arange(110)
    for point in range(len(curve)):
        texts = table.texts[rows, curve.stages_at(point)].tolist()
        assert 100 * curve.quality["bleu"][point] == pytest.approx(
            BLEU().corpus_score(texts, references).score, abs=1e-9
        )
        if point % 10 == 0:
            expected = CHRF().corpus_score(texts, references).score
            assert 100 * curve.quality["chrf"][point] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [*RATIOS, "exact_match", "token_f1"])
def test_the_expected_point_is_the_cheapest_that_a_search_finds(metric: str) -> None:
    table = text_table(45, 2, seed=5, metrics=(metric,))
    for target in (0.8, 0.95, 1.0):
        best = evaluate(metric, table.references, table.texts[:, 1])
        costs = [float(table.macs_reference.mean())]
        for threshold in [-np.inf, *np.unique(table.scores["energy"][:, 0]), np.inf]:
            stages = (table.scores["energy"][:, 0] < threshold).astype(int)
            if evaluate(metric, table.references, table.texts[np.arange(45), stages]) >= target * best - 1e-12:
                costs.append(float(table.macs[np.arange(45), stages].mean()))
        point = choose(table, "energy", target)
        taken = point.rule.taken(table)
        cost = table.macs_reference.mean() if point.rule.only_super else taken.macs.mean()
        assert cost == pytest.approx(min(costs))
        assert quality_of(taken) == pytest.approx(point.promise.quality)


def test_what_a_lost_text_takes_needs_no_array_of_rows_times_points(monkeypatch: pytest.MonkeyPatch) -> None:
    table = text_table(300, 2, seed=8, metrics=("bleu",))
    sums = table.metric_statistics("bleu")[1].sum(axis=0)
    shares = np.linspace(0, 1, 4000)[:, None]
    gradient = METRICS["bleu"].gradient(shares * sums[0] + (1 - shares) * sums[1])
    whole = lost_row(table, METRICS["bleu"], gradient)
    monkeypatch.setattr("dial.tradeoff.bounds.AT_ONCE", 30_000)
    tracemalloc.start()
    try:
        parts = lost_row(table, METRICS["bleu"], gradient)
        assert tracemalloc.get_traced_memory()[1] < 300 * 4000 * 8 / 4
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


@pytest.mark.parametrize("metric", RATIOS)
@pytest.mark.parametrize("grouped", [False, True])
def test_variances_along_the_curve_are_those_of_the_linearised_metric(metric: str, grouped: bool) -> None:
    group = np.random.default_rng(0).integers(0, 11, 70) if grouped else None
    table = text_table(70, 3, seed=6, metrics=(metric,), group=group)
    chooser = chooser_of(table, "energy")
    points, margin, variance, _ = Margins(chooser.curve, chooser.statistics, chooser.measured).at(0.9)
    units = units_of(table)
    for place in np.linspace(0, len(points) - 1, 6).astype(int):
        x = chooser.statistics[np.arange(70), chooser.curve.stages_at(points[place])]
        y = chooser.statistics[:, -1]
        step, influence = 1e-4, []
        for unit in range(units.max() + 1):  # one unit more or less, by finite differences
            values = []
            for weight in (1 + step, 1 - step):
                weights = np.where(units == unit, weight, 1.0)
                values.append(METRICS[metric].value(weights @ x) - 0.9 * METRICS[metric].value(weights @ y))
            influence.append((values[0] - values[1]) / (2 * step))
        centred = np.array(influence) - np.mean(influence)
        assert variance[place] == pytest.approx((centred**2).sum(), rel=1e-4, abs=1e-9)
        assert margin[place] == pytest.approx(METRICS[metric].value(x.sum(0)) - 0.9 * METRICS[metric].value(y.sum(0)))


def test_resamples_are_evaluated_on_the_texts_drawn() -> None:
    group = np.random.default_rng(1).integers(0, 17, 60)
    table = text_table(60, 2, seed=7, group=group)
    point = choose(table, "energy", 0.9)
    taken = point.rule.taken(table)
    resampled = bootstrap(table, METRICS["bleu"], {"point": taken}, {}, resamples=20, seed=5)
    units = units_of(table)
    weights = np.concatenate(list(resample_weights(units.max() + 1, 20, 5)), axis=1).astype(int)[units]
    routed = table.texts[np.arange(60), taken.stages]
    for draw in range(20):
        drawn = np.repeat(np.arange(60), weights[:, draw])
        references = streams([table.references[row] for row in drawn])
        for key, texts in (("point", routed), ("super", table.texts[:, 1])):
            expected = BLEU().corpus_score([texts[row] for row in drawn], references).score
            assert 100 * resampled.quality[key][draw] == pytest.approx(expected, abs=1e-9)
        assert len({tuple(weights[group == name, draw]) for name in set(group)}) > 1
        for name in set(group):
            assert len(set(weights[group == name, draw])) == 1  # drawn whole
    interval = kept_interval(table, METRICS["bleu"], taken, resampled.kept("point"))
    assert interval is not None and interval[0] <= point.promise.kept <= interval[1]


def test_crossfit_reports_on_rows_that_were_not_looked_at() -> None:
    table = text_table(90, 2, seed=8)
    taken, points = crossfitted(table, "energy", 3, lambda chooser: chooser.expected(0.9))
    stages = np.empty(90, int)
    for k, point in enumerate(points):
        mask = folds_of(table, 3) == k
        stages[mask] = point.rule.replay(table.take(mask))
    assert taken.stages.tolist() == stages.tolist()
    expected = evaluate("bleu", table.references, table.texts[np.arange(90), stages])
    assert quality_of(taken) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", RATIOS)
def test_a_lost_row_is_the_one_that_its_moments_make(metric: str) -> None:
    table = text_table(40, 2, seed=9, metrics=(metric,))
    each, rows = table.metric_statistics(metric)
    sums = rows[:, -1].sum(axis=0)
    gradient = each.gradient(sums)
    worst = each.worst(rows)
    losses = [max(0.0, *(-float(gradient @ (way[row] - rows[row, -1])) for way in worst)) for row in range(40)]
    expected = sum(loss**3 for loss in losses) / sum(loss**2 for loss in losses)
    assert lost_row(table, each, gradient[None])[0] == pytest.approx(expected)
    assert max(losses) >= expected > np.mean(losses) > 0


def pool(metric: str, rows: int = 3000) -> StageTable:
    """A population: rows with their sums; texts are left out, as nothing reads them any more."""
    table = text_table(rows, 2, seed=10, metrics=(metric,), several=False)
    score = row_gains(table, metric)[:, 0] - row_gains(table, metric)[:, 1]
    noise = np.random.default_rng(0).normal(size=rows) * score.std()
    scores = {"energy": np.stack([score + noise] * 2, axis=1)}
    return dataclasses.replace(table, texts=None, references=None, scores=scores)


@pytest.mark.parametrize("metric", ["bleu", "token_accuracy"])
def test_confident_points_keep_their_promise_on_the_population(metric: str) -> None:
    population, random, missed, early = pool(metric), np.random.default_rng(2), 0, []
    target = 0.85 if metric == "bleu" else 0.93
    for _ in range(300):
        table = dataclasses.replace(population.take(random.integers(0, len(population), 250)), sample_id=np.arange(250))
        point = choose(table, "energy", target, "confident")
        taken = point.rule.taken(population)
        early.append(taken.shares[0])
        missed += quality_of(taken) < target * quality_of(Taken.all_at(population, 1))
    assert missed / 300 <= 0.1 + SLACK
    assert np.mean(early) > 0.1  # and it does save something


def test_the_oracle_of_exact_match_is_that_of_right_answers() -> None:
    table = text_table(60, 2, seed=11, metrics=("exact_match",))
    right = table.statistics["exact_match"]
    classes = random_table(60, 2)
    classes = dataclasses.replace(
        classes, outputs=None, label=np.zeros(60, int), predictions=(right == 0).astype(int),
        macs=table.macs, decide_macs=table.decide_macs, macs_reference=table.macs_reference,
    )  # fmt: skip
    ours, theirs = oracle_events(table, "exact_match"), oracle_events(classes, "accuracy")
    assert ours.row.tolist() == theirs.row.tolist() and ours.after.tolist() == theirs.after.tolist()


def test_the_oracle_of_bleu_beats_every_score() -> None:
    table = text_table(80, 2, seed=12)
    moves = oracle_events(table, "bleu")
    stages = [moves.stages(dial) for dial in (20.5, 40.5, 60.5)]
    for each in stages:
        deferred = int(each.sum())
        by_score = np.zeros(80, int)
        by_score[np.argsort(table.scores["energy"][:, 0])[:deferred]] = 1
        best, other = (
            evaluate("bleu", table.references, table.texts[np.arange(80), where]) for where in (each, by_score)
        )
        assert best > other


@pytest.mark.parametrize("metric", RATIOS)
def test_texts_are_right_where_they_are_worth_the_last_stages(metric: str) -> None:
    """A little of each row's first text is put in place of its last: the corpus gains, or loses."""
    table = text_table(120, 2, seed=13, metrics=(metric,))
    each, rows = table.metric_statistics(metric)
    whole, right = rows[:, -1].sum(axis=0), right_rows(table)
    assert right[:, -1].all() and 10 < right[:, 0].sum() < 110
    for row in range(120):
        step = each.value(whole + 1e-4 * (rows[row, 0] - rows[row, -1])) - each.value(whole)
        assert right[row, 0] == (step >= 0) or abs(step) < 1e-9
    (found,) = chooser_of(table, "energy").crossings
    assert found.status in ("one", "several", "none")
    same = table.texts[:, 0] == table.texts[:, 1]
    assert right[same, 0].all()


def test_the_crossing_of_texts_is_an_operating_point() -> None:
    table = text_table(300, 2, seed=20)
    point = chooser_of(table, "energy").crossing()
    assert not isinstance(point, str)
    stages = (table.scores["energy"][:, 0] < point.rule.thresholds[0]).astype(int)
    routed = table.texts[np.arange(300), stages]
    assert point.promise.quality == pytest.approx(evaluate("bleu", table.references, routed), abs=1e-12)


def test_accuracy_over_groups_is_exact_along_the_curve() -> None:
    random = np.random.default_rng(14)
    table = random_table(150, 3, seed=14).with_scores(["energy"])
    metrics = ("accuracy", "group_accuracy")
    table = dataclasses.replace(table, group=random.integers(0, 40, 150), metrics=metrics)
    curve = Threshold("energy").curve(table)
    assert len(curve) > 100
    for point in range(len(curve)):
        stages = curve.stages_at(point)
        wrong: dict[str, int] = {}
        for row in range(150):
            name = str(table.group[row])
            wrong[name] = wrong.get(name, 0) + int(table.predictions[row, stages[row]] != table.label[row])
        expected = sum(count == 0 for count in wrong.values()) / len(wrong)
        assert curve.quality["group_accuracy"][point] == pytest.approx(expected, abs=1e-12)
        assert quality_of(Taken.at(table, stages), "group_accuracy") == pytest.approx(expected, abs=1e-12)


def test_accuracy_over_groups_needs_groups_and_sums() -> None:
    with pytest.raises(ValueError, match=r"`metrics` with group_accuracy need a column `group`"):
        random_table(20, metrics=("accuracy", "group_accuracy"))
    table = dataclasses.replace(random_table(20), group=np.arange(20) // 4, metrics=("group_accuracy", "accuracy"))
    with pytest.raises(ValueError, match=r"`metrics` must start with an additive metric, but group_accuracy is not"):
        chooser_of(table.with_scores(["softmax"]), "softmax").expected(0.9)
    assert metric_of(table).evaluate(table.label, table.label) == 1
