import numpy as np
import pytest

from datamodules.rows import Rows, make_rows


def labels(values: list, names: list[str]) -> list:
    columns = {"t": ["x"] * len(values), "y": values}
    return make_rows(columns, ("t", None, "y"), names, "a.csv").label.tolist()


def test_labels_by_name_index_or_text() -> None:
    values = ["Not Entailment", "entailment", 0, "1", 1.0]
    assert labels(values, ["entailment", "not_entailment"]) == [1, 0, 0, 1, 1]


def test_a_name_wins_over_an_index() -> None:
    assert labels(["1", "0"], ["1", "0"]) == [0, 1]


@pytest.mark.parametrize("values", [["2", "1", "3"], [2, 1, 3], [2.0, 1.0, 3.0], ["2.0", " 1", 3]])
def test_numbers_that_are_names_are_names_however_they_are_stored(values: list) -> None:
    assert labels(values, ["1", "2", "3"]) == [1, 0, 2]
    with pytest.raises(ValueError, match="`y` must be one of"):
        labels([*values, 0], ["1", "2", "3"])  # no index


@pytest.mark.parametrize("names", [["+", "-"], ["C", "C++"], ["us", "US"], ["-1", "1"]])
def test_names_that_only_case_or_punctuation_tells_apart_stay_apart(names: list) -> None:
    assert labels([*names, names[0]], names) == [0, 1, 0]


@pytest.mark.parametrize("bad", [2, -1, 0.5, "neutral", None, float("nan"), "", [1]])
def test_a_label_outside_the_range_is_refused(bad: object) -> None:
    with pytest.raises(
        ValueError, match=r"`y` must be one of 0 \(a\), 1 \(b\), but 1 of 3 rows of a.csv are not: row 1 has"
    ):
        labels([0, bad, 1], ["a", "b"])


@pytest.mark.parametrize("bad", [None, "high", float("inf")])
def test_a_regression_label_must_be_finite(bad: object) -> None:
    assert labels([1, "2.5"], []) == [1.0, 2.5]
    with pytest.raises(ValueError, match=r"`y` must be a finite number in every row, but row 1 of a.csv"):
        labels([0, bad], [])


def test_columns_become_rows() -> None:
    rows = make_rows({"a": ["x", ""], "b": ["", "3"], "y": [1, 0]}, ("a", "b", "y"), ["no", "yes"], "a.csv")
    assert list(rows.units()) == [("x", ""), ("", "3")]
    assert rows.label.dtype == np.int64 and rows.sample_id.tolist() == [0, 1]
    taken = rows.take(np.array([1]))
    assert list(taken.units()) == [("", "3")] and taken.label.tolist() == [0] and taken.sample_id.tolist() == [1]


def test_fingerprint_changes_with_everything() -> None:
    ids = np.arange(2)
    variants = [
        Rows(["ab", "c"], None, np.array([0, 1]), ids),
        Rows(["a", "bc"], None, np.array([0, 1]), ids),
        Rows(["c", "ab"], None, np.array([0, 1]), ids),
        Rows(["ab", "c"], None, np.array([1, 1]), ids),
        Rows(["ab", "c"], None, np.array([0, 1]), ids + 1),
        Rows(["ab", "c"], ["", ""], np.array([0, 1]), ids),
    ]
    assert len({rows.fingerprint for rows in variants}) == len(variants)
    assert variants[0].fingerprint == Rows(["ab", "c"], None, np.array([0, 1]), ids.copy()).fingerprint
