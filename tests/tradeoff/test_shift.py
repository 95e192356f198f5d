"""Rows like the calibration rows must raise no alarm, others must."""

import dataclasses

import numpy as np

from dial.report.report import SweepSettings, build_report
from dial.tradeoff.shift import Visits, differences, sentence
from tests.stages.population import logits_table


def visits(rng: np.random.Generator, rows: int, shift: float = 0.0, longer: float = 1.0, known: bool = True) -> Visits:
    score = rng.normal(shift, 1, rows)
    stayed = score >= 0.2
    return Visits(stayed, score if known else np.where(stayed, score, np.nan), rng.poisson(12 * longer, rows) + 2)


def test_halves_of_one_set_are_told_apart_in_at_most_one_of_a_hundred_trials() -> None:
    rng, alarms = np.random.default_rng(0), 0
    for trial in range(1000):
        rows = (60, 300, 900)[trial % 3]
        whole = visits(rng, 2 * rows)
        half = rng.permutation(2 * rows)
        parts = [
            Visits(whole.stayed[half[p]], whole.score[half[p]], whole.length[half[p]])
            for p in (slice(rows), slice(rows, None))
        ]
        alarms += bool(differences(*parts))
    assert alarms <= 10


def test_rows_of_another_kind_are_told_by_what_differs() -> None:
    rng = np.random.default_rng(1)
    there = visits(rng, 800)
    assert set(differences(there, visits(rng, 800, longer=2.0))) == {"length"}
    found = differences(there, visits(rng, 800, shift=-0.8))
    assert set(found) == {"deferred", "score"} and found["deferred"]["here"] > found["deferred"]["there"] + 0.2
    text = sentence(found, "the test rows")
    assert text.startswith("the test rows are not like the calibration rows: ") and "dial calibrate" in text
    assert sentence({}) == ""


def test_scores_of_rows_that_went_on_need_not_be_known() -> None:
    rng = np.random.default_rng(2)
    there, here = visits(rng, 700), visits(rng, 700, known=False)
    assert differences(there, here) == {}
    sharper = visits(rng, 700, known=False)
    sharper.score[sharper.stayed] += 1.0
    assert set(differences(there, sharper)) == {"score"}


def test_a_difference_that_only_many_rows_show_is_not_worth_a_word() -> None:
    rng = np.random.default_rng(3)
    assert differences(visits(rng, 200_000), visits(rng, 200_000, shift=0.03)) == {}


def test_nothing_is_said_of_no_rows_and_without_scores_or_lengths() -> None:
    rng = np.random.default_rng(4)
    none = Visits(np.zeros(0, dtype=bool))
    assert differences(none, visits(rng, 100)) == differences(visits(rng, 100), none) == {}
    assert differences(visits(rng, 500), visits(rng, 3, longer=5.0)) == {}  # a few rows are of no kind
    stayed = np.arange(400) < 300
    assert differences(Visits(stayed), Visits(~stayed))["deferred"] == {"there": 0.25, "here": 0.75}


def test_a_sweep_says_where_test_rows_are_not_like_its_calibration_rows() -> None:
    """Phrases for calibration and sentences for test, as SST-2 has them."""
    table = logits_table(400, seed=0)
    settings = SweepSettings(scores=("softmax",), bootstrap=100, targets=(0.98,))
    assert "shift" not in build_report(table, settings).summary["splits"]["test"]
    test = table.split == "test"
    lengths = {name: np.where(test, 2 * values, values) for name, values in table.lengths.items()}
    longer = dataclasses.replace(table, lengths=lengths)
    report = build_report(longer, settings)
    assert set(report.summary["splits"]["test"]["shift"]) == {"length"}
    assert "the test rows are not like the calibration rows: " in report.text()
    crossfit = dataclasses.replace(settings, calibration="crossfit")
    assert "shift" not in build_report(longer, crossfit).summary["splits"]["test"]
