import dataclasses
import itertools

import numpy as np
import pytest

from dial.stages.table import StageTable
from dial.tradeoff.rules import (
    Events,
    agreement,
    oracle_events,
    patience_events,
    replay,
    threshold_events,
)
from tests.stages.tables import random_table, regression_table


def first_to_reach(scores: list[float], thresholds: list[float]) -> int:
    for stage, (score, threshold) in enumerate(zip(scores, thresholds, strict=False)):
        if score >= threshold:
            return stage
    return len(scores) - 1


def every_dial(values: np.ndarray) -> list[float]:
    """Every value, both of its neighbours among the floats, and the infinities."""
    found = {-np.inf, np.inf}
    for value in np.unique(values):
        found |= {float(value), float(np.nextafter(value, np.inf)), float(np.nextafter(value, -np.inf))}
    return sorted(found)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_threshold_events_give_the_first_stage_that_reaches_the_dial(stages: int, ties: bool) -> None:
    scores = np.random.default_rng(stages).normal(size=(25, stages))
    scores = np.round(scores) if ties else scores
    events = threshold_events(scores)
    for dial in every_dial(scores):
        expected = [first_to_reach(row, [dial] * (stages - 1)) for row in scores.tolist()]
        assert events.stages(dial).tolist() == expected
        assert replay(scores, np.full(stages - 1, dial)).tolist() == expected


def test_the_last_stage_is_taken_whatever_its_score() -> None:
    scores = np.array([[0.1, np.nan], [0.9, np.nan]])
    assert threshold_events(scores).stages(0.5).tolist() == [1, 0]
    assert replay(scores, np.array([0.5])).tolist() == [1, 0]


def test_infinite_scores_stop_or_go_on_at_every_finite_dial() -> None:
    events = threshold_events(np.array([[-np.inf, 0.0], [np.inf, 0.0]]))
    assert events.stages(-np.inf).tolist() == [0, 0]
    assert events.stages(-1e300).tolist() == [1, 0]
    assert events.stages(np.inf).tolist() == [1, 0]


def test_replay_with_one_threshold_per_stage_equals_a_loop() -> None:
    scores = np.random.default_rng(0).integers(0, 4, size=(30, 4)).astype(float)
    for thresholds in itertools.product([-np.inf, 0.0, 1.5, 3.0, np.inf], repeat=3):
        expected = [first_to_reach(row, list(thresholds)) for row in scores.tolist()]
        assert replay(scores, np.array(thresholds)).tolist() == expected


@pytest.mark.parametrize("rule", ["threshold", "patience", "oracle"])
def test_events_are_sorted_and_move_every_row_from_first_to_last_stage(rule: str) -> None:
    table = random_table(rows=50, stages=5, classes=3, ties=True).with_scores(["softmax"])
    events = events_of(rule, table)
    assert (np.diff(events.dial) >= 0).all()
    position = events.start.astype(int)
    for row, before, after in zip(events.row, events.before, events.after, strict=True):
        assert position[row] == before < after
        position[row] = after
    assert (position == 4).all()


def events_of(rule: str, table: StageTable) -> Events:
    if rule == "oracle":
        return oracle_events(table, "accuracy")
    return patience_events(table.predictions) if rule == "patience" else threshold_events(table.scores["softmax"])


def test_patience_counts_agreeing_stages() -> None:
    predictions = np.random.default_rng(0).integers(2, size=(40, 6))
    events = patience_events(predictions)
    for patience in range(7):
        expected = []
        for row in predictions.tolist():
            streak, taken = 0, 5
            for stage in range(6):
                streak = streak + 1 if stage and row[stage] == row[stage - 1] else 0
                if streak >= patience:
                    taken = stage
                    break
            expected.append(taken)
        assert events.stages(patience).tolist() == expected


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.5])
def test_numbers_agree_if_they_differ_by_less_than_the_tolerance(tolerance: float) -> None:
    answers = np.random.default_rng(0).integers(0, 9, (40, 6)) / 10  # many differences are exactly the tolerance
    counts = agreement(answers, tolerance)
    for row, values in enumerate(answers.tolist()):
        count = 0
        for stage in range(6):
            apart = None if stage == 0 else abs(values[stage] - values[stage - 1])
            count = count + 1 if apart is not None and (apart < tolerance or apart == 0) else 0
            assert counts[row, stage] == count


def test_agreement_of_numbers_has_a_tolerance() -> None:
    assert agreement(np.array([[1.0, 1.2, 1.3, 2.0]]), tolerance=0.25).tolist() == [[0, 1, 2, 0]]


def test_oracle_of_two_stages_spends_first_where_only_the_super_is_right() -> None:
    table = random_table(rows=400, seed=2)
    right = table.predictions == table.label[:, None]
    cost = table.macs[:, 1] - table.macs[:, 0]
    kind = np.where(right[:, 1] & ~right[:, 0], 0, np.where(right[:, 0] == right[:, 1], 1, 2))
    events = oracle_events(table, "accuracy")
    assert (np.diff(kind[events.row]) >= 0).all()
    assert set(kind.tolist()) == {0, 1, 2}
    for group in (0, 1):
        assert (np.diff(cost[events.row][kind[events.row] == group]) >= 0).all()
    # of the answers that get worse, those that are dearer go first: they lose less per MAC
    assert (np.diff(cost[events.row][kind[events.row] == 2]) <= 0).all()


@pytest.mark.parametrize(("stages", "seed"), [(2, 1), (2, 3), (3, 4), (3, 5)])
def test_no_choice_of_stages_is_better_than_the_oracle_at_its_cost(stages: int, seed: int) -> None:
    table = random_table(rows=6, stages=stages, seed=seed)
    right = table.predictions == table.label[:, None]
    choices = [np.array(choice) for choice in itertools.product(range(stages), repeat=6)]
    rows = np.arange(6)
    points = [(table.macs[rows, choice].sum(), right[rows, choice].sum()) for choice in choices]
    events = oracle_events(table, "accuracy")
    best = max(quality for _, quality in points)
    for dial in [-np.inf, *(events.dial + 0.5)]:
        taken = events.stages(dial)
        cost, quality = table.macs[rows, taken].sum(), right[rows, taken].sum()
        assert quality == max(other for cheaper, other in points if cheaper <= cost)
        if quality == best:
            break
    assert quality == best > right[:, 0].sum()


def test_oracle_of_equal_slopes_keeps_the_order_of_each_rows_moves() -> None:
    table = random_table(rows=300, stages=6, classes=2, seed=9)
    graded = {"f": np.cumsum(np.random.default_rng(0).integers(0, 3, size=(300, 6)) / 3, axis=1)}
    table = dataclasses.replace(
        table,
        statistics=graded,
        metrics=("f",),
        macs=np.tile(np.arange(1, 7) / 3, (300, 1)) * 1e7,
        settings={"ranges": {"f": [0, 4]}},
    )
    events = oracle_events(table, "f")
    position = events.start.astype(int)
    for row, before, after in zip(events.row, events.before, events.after, strict=True):
        assert position[row] == before
        position[row] = after


def test_oracle_goes_straight_to_the_last_of_stages_that_gain_alike() -> None:
    table = random_table(rows=20, stages=4)
    right = dataclasses.replace(table, predictions=np.repeat(table.label[:, None], 4, axis=1))
    events = oracle_events(right, "accuracy")
    assert (events.before.tolist(), events.after.tolist()) == ([0] * 20, [3] * 20)


def test_oracle_of_regression_reduces_the_squared_error_fastest() -> None:
    table = regression_table()
    gain = (table.predictions[:, 0] - table.label) ** 2 - (table.predictions[:, 1] - table.label) ** 2
    assert (np.diff(gain[oracle_events(table, "pearson").row]) <= 0).all()


def test_permuted_labels_change_no_decision() -> None:
    """What decides exists at inference time; only the oracle may look at labels."""
    table = random_table(rows=80, stages=3, classes=3)
    permuted = dataclasses.replace(table, label=np.random.default_rng(0).permutation(table.label))
    assert (permuted.label != table.label).any()
    names = ["energy", "energy_released", "softmax", "margin", "entropy", "random"]
    for name in names:
        one, other = (each.with_scores(names).scores[name] for each in (table, permuted))
        for dial in np.quantile(one[:, :-1], [0.1, 0.5, 0.9]):
            assert (threshold_events(one).stages(dial) == threshold_events(other).stages(dial)).all()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="row 1 has NaN at stage 0"):
        threshold_events(np.array([[0.0, 0.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"one value for each of the 2 stages before the last, but got shape \(3,\)"):
        replay(np.zeros((4, 3)), np.zeros(3))
