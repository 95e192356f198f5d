import dataclasses
import io
import itertools

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import scipy.stats
import sklearn.metrics

from dial.stages.metrics.metrics import evaluate
from dial.stages.table import StageTable
from dial.tradeoff.area import normalised_area
from dial.tradeoff.curve import concat, to_frame
from dial.tradeoff.events import replay
from dial.tradeoff.oracle import oracle_events
from dial.tradeoff.patience import Patience
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.rules import curve
from tests.stages.tables import random_table, regression_table
from tests.tradeoff.choosing import thresholds_at

SCORES = ["energy", "softmax"]


def by_hand(table: StageTable, stages: list[int], metric: str) -> tuple[float, float, list[float]]:
    """Quality, mean cost and shares of given stages, row by row, with scikit-learn's metrics."""
    answers = [table.predictions[row, stage].item() for row, stage in enumerate(stages)]
    labels = table.label.tolist()
    quality = {
        "accuracy": lambda: sum(a == b for a, b in zip(answers, labels, strict=True)) / len(labels),
        "f1": lambda: sklearn.metrics.f1_score(labels, answers, zero_division=0.0),
        "macro_f1": lambda: sklearn.metrics.f1_score(labels, answers, average="macro", zero_division=0.0),
        "mcc": lambda: sklearn.metrics.matthews_corrcoef(labels, answers),
        "pearson": lambda: scipy.stats.pearsonr(labels, answers).statistic,
        "spearman": lambda: scipy.stats.spearmanr(labels, answers).statistic,
    }[metric]()
    macs = sum(table.macs[row, stage].item() for row, stage in enumerate(stages)) / len(stages)
    return quality, macs, [stages.count(stage) / len(stages) for stage in range(len(table.stages))]


def visited(scores: np.ndarray, dial: float) -> list[int]:
    """First stage that reaches the dial, by loop."""
    result = []
    for row in scores.tolist():
        stage = 0
        while stage < len(row) - 1 and not row[stage] >= dial:
            stage += 1
        result.append(stage)
    return result


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("classes", "metrics"), [(2, ("accuracy", "f1", "mcc")), (3, ("macro_f1", "mcc", "accuracy"))])
def test_two_stages_every_threshold(score: str, ties: bool, classes: int, metrics: tuple[str, ...]) -> None:
    table = random_table(35, 2, classes, metrics=metrics, ties=ties).with_scores(SCORES)
    result = curve(table, score)
    values = table.scores[score]
    distinct = sorted(set(values[:, 0].tolist()))
    assert len(result) == len(distinct) + 1
    assert result.dial[0] == -np.inf
    assert result.dial[-1] == np.inf
    for point, dial in enumerate(result.dial):
        if 0 < point < len(distinct):
            assert dial == pytest.approx((distinct[point - 1] + distinct[point]) / 2, rel=1e-12)
        stages = visited(values, dial)
        assert replay(values, thresholds_at(result, point)).tolist() == stages
        for metric in metrics:
            quality, macs, shares = by_hand(table, stages, metric)
            assert result.quality[metric][point] == pytest.approx(quality, abs=1e-12)
        assert result.macs[point] == pytest.approx(macs, rel=1e-12)
        assert result.shares[point].tolist() == pytest.approx(shares)


@pytest.mark.parametrize("stages", [1, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_more_stages_every_shared_dial(stages: int, ties: bool) -> None:
    table = random_table(30, stages, 3, metrics=("accuracy", "mcc"), ties=ties).with_scores(SCORES)
    values = table.scores["softmax"]
    result = curve(table, "softmax")
    levels = Quantiles.fit(values).transform(values)
    seen = set()
    for point, dial in enumerate(result.dial):
        taken = visited(levels, dial)
        assert replay(values, thresholds_at(result, point)).tolist() == taken
        quality, macs, shares = by_hand(table, taken, "mcc")
        assert result.quality["mcc"][point] == pytest.approx(quality, abs=1e-12)
        assert result.macs[point] == pytest.approx(macs, rel=1e-12)
        assert result.shares[point].tolist() == pytest.approx(shares)
        seen.add(tuple(taken))
    # nothing between the points: every dial there is gives decisions that some point has
    for dial in np.unique(levels[:, :-1]) if stages > 1 else []:
        assert tuple(visited(levels, dial)) in seen
        assert tuple(visited(levels, np.nextafter(dial, np.inf))) in seen
    assert len(seen) == len(result)


def test_test_rows_are_measured_on_the_quantiles_of_calibration_rows() -> None:
    calibration = random_table(40, 3, seed=1).with_scores(["energy"])
    table = random_table(50, 3, seed=2).with_scores(["energy"])
    quantiles = Quantiles.fit(calibration.scores["energy"])
    result = curve(table, "energy", quantiles=quantiles)
    levels = quantiles.transform(table.scores["energy"])
    for point, dial in enumerate(result.dial):
        taken = visited(levels, dial)
        assert result.quality["accuracy"][point] == pytest.approx(by_hand(table, taken, "accuracy")[0])
        assert replay(table.scores["energy"], thresholds_at(result, point)).tolist() == taken


@pytest.mark.parametrize("rule", ["patience", "oracle"])
def test_other_rules(rule: str) -> None:
    table = random_table(40, 4, metrics=("accuracy", "mcc"))
    result = curve(table, "", rule=rule)
    assert (result.score, result.rule) == (rule, rule)
    events = oracle_events(table, "accuracy") if rule == "oracle" else Patience().events(table)[0]
    assert len(result) == len(np.unique(events.dial)) + 1
    for point, dial in enumerate(result.dial):
        quality, macs, _ = by_hand(table, events.stages(dial).tolist(), "mcc")
        assert result.quality["mcc"][point] == pytest.approx(quality, abs=1e-12)
        assert result.macs[point] == pytest.approx(macs, rel=1e-12)
    for metric in table.metrics:
        assert result.quality[metric][0] == pytest.approx(evaluate(metric, table.label, table.predictions[:, 0], 2))
        assert result.quality[metric][-1] == pytest.approx(evaluate(metric, table.label, table.predictions[:, -1], 2))


def test_regression_has_spearman_on_a_grid() -> None:
    table = regression_table(300)
    table = dataclasses.replace(table, scores={"own": np.random.default_rng(0).random((300, 2))})
    result = curve(table, "own")
    known = np.isfinite(result.quality["spearman"])
    assert known.sum() == 101
    assert known[0]
    assert known[-1]
    assert np.isfinite(result.quality["pearson"]).all()
    for point in [*np.flatnonzero(known)[:3], 0, len(result) - 1]:
        stages = visited(table.scores["own"], result.dial[point])
        assert result.quality["spearman"][point] == pytest.approx(by_hand(table, stages, "spearman")[0], abs=1e-10)
        assert result.quality["pearson"][point] == pytest.approx(by_hand(table, stages, "pearson")[0], abs=1e-10)


def test_a_metric_of_the_tables_own_statistics_is_its_mean() -> None:
    table = random_table(25)
    graded = np.random.default_rng(0).random((25, 2))
    table = dataclasses.replace(table, statistics={"em": graded}, metrics=("em", "accuracy")).with_scores(["softmax"])
    result = curve(table, "softmax")
    for point, dial in enumerate(result.dial):
        stages = visited(table.scores["softmax"], dial)
        assert result.quality["em"][point] == pytest.approx(
            np.mean([graded[row, stage] for row, stage in enumerate(stages)])
        )


def test_neighbouring_floats_get_a_point_each() -> None:
    table = random_table(3)
    values = np.array([[1.0, 0], [np.nextafter(1.0, 2), 0], [np.nextafter(1.0, 0), 0]])
    result = curve(dataclasses.replace(table, scores={"softmax": values}), "softmax")
    assert [replay(values, thresholds_at(result, point)).tolist() for point in range(4)] == [
        [0, 0, 0],
        [0, 0, 1],
        [1, 0, 1],
        [1, 1, 1],
    ]
    assert result.shares[:, 1].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_binary_softmax_margin_entropy_and_released_energy_are_one_curve() -> None:
    names = ["softmax", "margin", "entropy", "energy_released"]
    table = random_table(200, 2).with_scores(names)
    first, *others = [curve(table, name) for name in names]
    for other in others:
        np.testing.assert_array_equal(first.quality["accuracy"], other.quality["accuracy"])
        np.testing.assert_array_equal(first.macs, other.macs)


def test_normalised_area_is_zero_for_random_and_one_for_the_oracle() -> None:
    table = random_table(150, seed=4).with_scores(["softmax", "random"])
    curves = {name: curve(table, name) for name in ("softmax", "random", "oracle")}
    areas = {name: normalised_area(each, curves["random"], curves["oracle"]) for name, each in curves.items()}
    assert areas["random"] == 0
    assert areas["oracle"] == 1

    def area(name: str) -> float:
        points = list(zip(curves[name].macs, curves[name].quality["accuracy"], strict=True))
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))

    expected = (area("softmax") - area("random")) / (area("oracle") - area("random"))
    assert areas["softmax"] == pytest.approx(expected)
    assert 0 < expected < 1


def test_normalised_area_is_undefined_where_the_super_is_not_better() -> None:
    table = random_table(50).with_scores(["softmax", "random"])
    same = dataclasses.replace(table, predictions=np.repeat(table.predictions[:, :1], 2, axis=1))
    worse = dataclasses.replace(table, predictions=table.predictions[:, ::-1])
    for each in (same, worse):
        curves = [curve(each, name) for name in ("softmax", "random", "oracle")]
        assert normalised_area(*curves) is None


def test_frames_hold_every_point_and_read_back() -> None:
    table = random_table(30, 3, metrics=("accuracy", "mcc")).with_scores(["softmax", "energy"])
    curves = [curve(table, "softmax"), curve(table, "energy"), curve(table, "oracle")]
    frame = concat(curves)
    assert frame.num_rows == sum(len(each) for each in curves)
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(frame, buffer)
    names = ["split", "score", "rule", "dial", "macs", "accuracy", "mcc", "share_tier0", "share_tier1", "share_tier2"]
    assert frame.column_names == names
    rows = pyarrow.csv.read_csv(io.BytesIO(buffer.getvalue())).to_pylist()
    assert rows[0]["dial"] == -np.inf
    assert {row["score"] for row in rows} == {"softmax", "energy", "oracle"}
    assert rows[len(curves[0]) - 1]["share_tier2"] == 1
    pyarrow.parquet.write_table(frame, buffer := io.BytesIO())
    assert pyarrow.parquet.read_table(buffer).equals(frame)
    np.testing.assert_array_equal(to_frame(curves[1]).column("mcc").to_numpy(), curves[1].quality["mcc"])


def test_a_frame_asks_once_for_the_shares_of_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = curve(random_table(40, 5, seed=3).with_scores(["softmax"]), "softmax")
    shares, asked = found.shares, itertools.count()
    monkeypatch.setattr(type(found), "shares", property(lambda self: shares if next(asked) >= 0 else None))
    frame = to_frame(found)
    assert next(asked) == 1
    for stage, name in enumerate(found.stages):
        np.testing.assert_array_equal(frame.column(f"share_{name}").to_numpy(), shares[:, stage])


def test_bad_input() -> None:
    table = random_table(20, splits=("calibration", "test")).with_scores(["softmax"])
    with pytest.raises(ValueError, match=r"one split, but got \['calibration', 'test'\]"):
        curve(table, "softmax")
    test = table.of_split("test")
    with pytest.raises(ValueError, match="`score` must be one that the table holds: softmax, oracle; but got 'energy'"):
        curve(test, "energy")
    with pytest.raises(
        ValueError, match="`rule` must be one of threshold, per_stage, patience, oracle, but got 'greedy'"
    ):
        curve(test, "softmax", rule="greedy")
    with pytest.raises(ValueError, match=r"`metric` must be one of: accuracy.*but got 'blue'"):
        curve(test, "softmax").quality_by("blue")
